"""The arguments of an editor's training, and the preset and recipe that they make."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from experiments.training.arguments import positive, training_parser
from liveedit_jax.backbone_config import BackboneConfig, RematPolicy
from liveedit_jax.baselines.table import TRAINED
from liveedit_jax.cli.arguments import whole_number
from liveedit_jax.config import EditMixture, EditorConfig, EditorTrainConfig, Preset
from liveedit_jax.data.open_questions import read_open_questions
from liveedit_jax.data.open_world import OpenWorld
from liveedit_jax.data.stamps import read_stamps
from liveedit_jax.presets import DATASETS, preset
from liveedit_jax.scaling.mesh import parse_axes

LIVEEDIT_ONLY = (
    "start_from", "edit_layer", "accumulate", "keep", "int8", "bf16", "dataset", "manual_dir",
    "allow_missing", "states", "mesh", "coordinator", "processes", "process",
)  # fmt: skip


OPEN_SHARE = 0.5  # of the samples, where free questions are given and the preset says nothing


def parse(text: str) -> tuple[argparse.Namespace, Preset, EditorTrainConfig]:
    """The arguments, the preset and the recipe; ends the program where they do not fit together.

    Args:
        text: the script's docstring; its first line is shown.
    """
    parser = _parser(text)
    args = parser.parse_args()
    chosen = preset(args.config, args.dataset)
    recipe = _recipe(args, chosen.editor_train)
    refused = _refused(args, chosen, recipe)
    if refused is not None:
        parser.error(refused)
    chosen = replace(chosen, edit_mixture=_mixture(args, chosen))
    return args, replace(chosen, backbone=_backbone(args, chosen.backbone)), recipe


def is_public(chosen: Preset) -> bool:
    """Tell whether the data are a public benchmark's files and not MojiEdit's drawings."""
    return chosen.dataset.name != "mojiedit"


def starts_on_drawings(cfg: EditorConfig, recipe: EditorTrainConfig) -> bool:
    """Return whether MojiEdit's drawings say where an editor's training starts."""
    fitted = cfg.image_direction_n, cfg.text_direction_n, recipe.gate_gain, recipe.start_false_hits
    return any(value is not None for value in fitted)


def _parser(text: str) -> argparse.ArgumentParser:
    parser = training_parser(text, "runs/editor", "the editor")
    parser.add_argument("--editor", choices=["liveedit", *TRAINED], default="liveedit")
    parser.add_argument("--model", type=Path, help="folder with backbone/ and tokenizer.json")
    parser.add_argument("--start-from", type=Path, help="model folder whose editor to go on from")
    parser.add_argument("--edit-layer", type=whole_number, help="decoder layer (the preset's)")
    parser.add_argument("--batch", type=positive(int), help="samples a batch (the recipe's)")
    parser.add_argument("--accumulate", type=positive(int), help="batches a step (the recipe's)")
    parser.add_argument(
        "--keep", choices=[k.value for k in RematPolicy], help="of layers, for gradients"
    )
    parser.add_argument("--int8", action="store_true", help="frozen kernels in 8 bits")
    parser.add_argument(
        "--save-every", type=positive(int), default=100, help="steps between checkpoints"
    )
    parser.add_argument("--dataset", choices=sorted(DATASETS), help="what to train on (preset's)")
    parser.add_argument("--manual-dir", type=Path, help="a public benchmark's own files")
    parser.add_argument("--allow-missing", action="store_true", help="leave out rows without them")
    parser.add_argument(
        "--questions",
        type=Path,
        nargs="+",
        help="training files of E-VQA or VLKEB, to ask freely",
    )
    parser.add_argument("--stamps", type=Path, help="Tux Paint's stamps, to ask them about")
    parser.add_argument("--open-share", type=float, help="of the samples (the preset's, or a half)")
    parser.add_argument("--states", type=Path, help="folder for lower states, made once a batch")
    parser.add_argument(
        "--batches", type=positive(int), default=1000, help="how many, with --states"
    )
    parser.add_argument("--mesh", type=parse_axes, help="axes, as data=2,fsdp=4,tensor=2")
    parser.add_argument("--coordinator", help="HOST:PORT of process 0, outside pods and Slurm")
    parser.add_argument(
        "--processes", type=positive(int), help="how many there are, with --coordinator"
    )
    parser.add_argument("--process", type=whole_number, help="which of them this is")
    return parser


def _recipe(args: argparse.Namespace, recipe: EditorTrainConfig) -> EditorTrainConfig:
    """The preset's recipe, with what the arguments say instead."""
    steps_n = args.steps or recipe.steps_n
    return replace(
        recipe,
        seed=args.seed,
        steps_n=steps_n,
        warmup_steps=min(recipe.warmup_steps, steps_n // 2),  # of short runs
        learning_rate=args.learning_rate or recipe.learning_rate,
        batch_n=args.batch or recipe.batch_n,
        accumulate_n=args.accumulate or recipe.accumulate_n,
    )


def _mixture(args: argparse.Namespace, chosen: Preset) -> EditMixture:
    """The preset's mixture: with free questions that of an open world, as the arguments say."""
    if args.questions is None:
        return chosen.edit_mixture
    mixture = chosen.open_mixture or replace(chosen.edit_mixture, open_share=OPEN_SHARE)
    share = mixture.open_share if args.open_share is None else args.open_share
    return replace(mixture, open_share=share)


def open_world(args: argparse.Namespace) -> OpenWorld | None:
    """The free questions and photographs that the arguments name, if any.

    Raises:
        FileNotFoundError, ValueError: what is wrong with them.
    """
    if args.questions is None:
        return None
    stamps = () if args.stamps is None else read_stamps(args.stamps)
    trained = tuple(stamp for stamp in stamps if not stamp.held_out)
    if stamps and not trained:
        raise ValueError(f"all photographs below {args.stamps} are held out of training")
    return OpenWorld(read_open_questions(args.questions), trained)


def _backbone(args: argparse.Namespace, cfg: BackboneConfig) -> BackboneConfig:
    """Return the preset's backbone, with what the arguments say instead.

    Raises:
        ValueError: the edit layer is none of the decoder's.
    """
    edit_layer = cfg.edit_layer if args.edit_layer is None else args.edit_layer
    if not 0 <= edit_layer < cfg.decoder.layers_n - 1:
        raise ValueError(
            f"--edit-layer {edit_layer}: from 0 to {cfg.decoder.layers_n - 2}, as a layer has to "
            "follow that reads the edit"
        )
    keep = cfg.keep if args.keep is None else RematPolicy(args.keep)
    return replace(cfg, edit_layer=edit_layer, keep=keep)


def _refused(args: argparse.Namespace, chosen: Preset, recipe: EditorTrainConfig) -> str | None:
    """Find what is wrong with the arguments, if anything is."""
    name, public = chosen.dataset.name, is_public(chosen)
    others = [option for option in LIVEEDIT_ONLY if getattr(args, option) not in (None, False)]
    if args.editor != "liveedit" and (others or public):
        said = ", ".join("--" + option.replace("_", "-") for option in others) or name
        return f"{said}: for LiveEdit alone; other editors train on mojiedit, on one device"
    if args.coordinator is None and (args.processes, args.process) != (None, None):
        return "--processes and --process go with --coordinator HOST:PORT"
    if args.int8 and args.bf16:
        return "--int8 or --bf16: frozen kernels are either"
    if public and args.manual_dir is None:
        return f"{name} is read from its authors' files: give --manual-dir FOLDER"
    if args.questions is None and (args.stamps, args.open_share) != (None, None):
        return "--stamps and --open-share go with --questions FILES"
    if args.open_share is not None and not 0 <= args.open_share <= 1:
        return f"--open-share {args.open_share}: a share between 0 and 1"
    if public and args.questions is not None:
        return f"--questions: with MojiEdit, not with {name}"
    if args.config.endswith(".py") and args.model is None:
        return "a config file needs --model FOLDER"
    if public and args.start_from is None and starts_on_drawings(chosen.editor, recipe):
        return "fitted starts are made on mojiedit: give --start-from, or another --config"
    return None
