"""The named editors and datasets, and the presets that combine them with a backbone."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.config import (
    BridgeTrainConfig,
    DatasetConfig,
    EditMixture,
    EditorConfig,
    EditorTrainConfig,
    EvaluationConfig,
    InitFitConfig,
    LengthBudget,
    Preset,
    PretrainConfig,
)

TINY_PRETRAIN = PretrainConfig(
    images_n=20,
    scenes_n=8,
    composed_share=0.5,
    view_share=0.3,
    pairs_n=24,
    collages_n=6,
    strange_n=5,
    steps_n=5_000,
    decay_share=0.78,
)

TINY_EDITOR = EditorConfig(
    module_width=192,
    heads_n=4,
    generator_heads_n=1,
    rank=32,
    queries_n=4,
    expert_scale=0.1,
    top_k=16,
    image_direction_n=192,
    image_bands_n=5,
    text_direction_n=127,
    joint_scale=40.0,
)
TINY_EDITOR_TRAIN = EditorTrainConfig(
    batch_n=16,
    steps_n=2_000,
    learning_rate=4e-3,
    routing_skip_same=True,
    rate_attention=0.025,
    rate_down=0.00075,
    rate_up=15.0,
    gate_gain=0.25,
    warmup_steps=200,
    cosine=True,
    clip_norm=1.0,
    muon=True,
)
TINY_MIXTURE = EditMixture(lengths=((44, 0.51), (50, 0.37), (60, 0.12)))
# The same with the routing of the paper.
TINY_PAPER_EDITOR = replace(
    TINY_EDITOR,
    paired_init=True,
    vision_init_scale=2.0,
    image_direction_n=None,
    image_bands_n=1,
    text_direction_n=None,
    joint_scale=0.0,
)
TINY_PAPER_EDITOR_TRAIN = replace(
    TINY_EDITOR_TRAIN,
    routing_n=32,
    routing_repository_n=1_000,
    routing_blend=0.5,
    rate_extractor=0.4,
)

PAPER_EDITOR = EditorConfig()  # M 1024, R 4, E 4, 8 heads: the paper's, for every 7B backbone
PAPER_EDITOR_TRAIN = EditorTrainConfig(answers_n=LengthBudget().answer_n + 1)
# On the paper's benchmarks: 50 epochs of batches of 8, and room for their longest answers.
PAPER_BENCHMARKS: dict[str, EditorTrainConfig] = {
    "evqa": replace(PAPER_EDITOR_TRAIN, steps_n=39_650, answers_n=25),
    "eic": replace(PAPER_EDITOR_TRAIN, steps_n=17_800, answers_n=65),
    "vlkeb": replace(PAPER_EDITOR_TRAIN, steps_n=31_250, answers_n=33),
}
PAPER_BACKBONES = ("llava-1.5-7b", "blip2-opt-2.7b", "minigpt-4-vicuna-7b")

SMOL_EDITOR = replace(TINY_PAPER_EDITOR, module_width=512, rank=64)
SMOL_EDITOR_TRAIN = replace(
    TINY_PAPER_EDITOR_TRAIN,
    batch_n=8,
    routing_n=16,
    steps_n=700,
    warmup_steps=60,
    rate_image=0.02,
    rate_sentinel=0.1,
    standardise=True,
    start_false_hits=1.0,
    fit=InitFitConfig(batches_n=2_000, write_steps_n=6_000, look_decay=0.01, write_decay=0.1),
)
EDITORS: dict[str, EditorConfig] = {
    "tiny": TINY_EDITOR,
    "tiny-paper": TINY_PAPER_EDITOR,
    "smol": SMOL_EDITOR,
    "paper": PAPER_EDITOR,
}
DATASETS: dict[str, DatasetConfig] = {
    "mojiedit": DatasetConfig(),
    "evqa": DatasetConfig(name="evqa", budget=LengthBudget(prompt_n=96, answer_n=24)),
    "eic": DatasetConfig(name="eic", budget=LengthBudget(prompt_n=64, answer_n=64)),
    "vlkeb": DatasetConfig(name="vlkeb", budget=LengthBudget(prompt_n=96, answer_n=32)),
}
PUBLISHED = tuple(name for name in BACKBONES if name not in ("tiny", "smol"))
PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        dataset=DATASETS["mojiedit"],
        backbone=BACKBONES["tiny"],
        editor=TINY_EDITOR,
        pretrain=TINY_PRETRAIN,
        editor_train=TINY_EDITOR_TRAIN,
        edit_mixture=TINY_MIXTURE,
        open_mixture=EditMixture(
            lengths=((44, 0.25), (50, 0.32), (60, 0.32), (72, 0.11)), open_share=0.5
        ),
    ),
    "tiny-paper": Preset(
        dataset=DATASETS["mojiedit"],
        backbone=BACKBONES["tiny"],
        editor=TINY_PAPER_EDITOR,
        editor_train=TINY_PAPER_EDITOR_TRAIN,
        edit_mixture=TINY_MIXTURE,
    ),
    "smol": Preset(
        dataset=DatasetConfig(budget=LengthBudget(prompt_n=48, answer_n=64)),
        backbone=BACKBONES["smol"],
        editor=SMOL_EDITOR,
        editor_train=SMOL_EDITOR_TRAIN,
        edit_mixture=EditMixture(
            lengths=((32, 0.50), (38, 0.42), (60, 0.08)),
            sibling_share=0.3,
            same_image_share=0.15,
        ),
        open_mixture=EditMixture(
            lengths=((32, 0.56), (38, 0.38), (60, 0.06)),
            sibling_share=0.3,
            same_image_share=0.15,
            open_share=0.5,
        ),
        bridge_train=BridgeTrainConfig(),
        evaluation=EvaluationConfig(cases_n=200),
    ),
    **{
        name: Preset(
            dataset=DATASETS["mojiedit"],
            backbone=BACKBONES[name],
            editor=PAPER_EDITOR,
            editor_train=PAPER_EDITOR_TRAIN,
        )
        for name in PUBLISHED
    },
    **{
        f"{name}-{dataset}": Preset(
            dataset=DATASETS[dataset],
            backbone=BACKBONES[name],
            editor=PAPER_EDITOR,
            editor_train=recipe,
        )
        for name in PAPER_BACKBONES
        for dataset, recipe in PAPER_BENCHMARKS.items()
    },
}


def _of_file(file: str) -> Preset:
    if not Path(file).is_file():
        raise FileNotFoundError(f"no config file at {file}")
    found = runpy.run_path(file).get("CONFIG")
    if not isinstance(found, Preset):
        raise ValueError(f"{file} defines no CONFIG that is a Preset")
    return found


def preset(
    name: str, dataset: str | None = None, backbone: str | None = None, editor: str | None = None
) -> Preset:
    """Look up a preset, and replace any of its three parts by another named one.

    Args:
        name: a preset, or the path of a Python file that defines a Preset as CONFIG; the file is
            executed.
        dataset: a name in `DATASETS`; None: the preset's.
        backbone: a name in `BACKBONES`; None: the preset's.
        editor: a name in `EDITORS`; None: the preset's.

    Raises:
        KeyError: a name is unknown; the message lists the known ones.
        FileNotFoundError: there is no such file.
        ValueError: the file defines no preset.
    """

    def pick(table: dict, kind: str, key: str):
        if key not in table:
            raise KeyError(f"unknown {kind} {key!r}; known: {', '.join(sorted(table))}")
        return table[key]

    chosen = _of_file(name) if name.endswith(".py") else pick(PRESETS, "config", name)
    parts: dict[str, tuple[dict, str | None]] = {
        "dataset": (DATASETS, dataset),
        "backbone": (BACKBONES, backbone),
        "editor": (EDITORS, editor),
    }
    changes = {
        kind: pick(table, kind, key) for kind, (table, key) in parts.items() if key is not None
    }
    return replace(chosen, **changes)
