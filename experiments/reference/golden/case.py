"""A golden case on disk: its arrays, its models, and the comparison that every check uses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from experiments.reference.golden.functions import Functions
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.llava_convert import config_from_hf
from liveedit_jax.backbones.weights import convert_weights
from liveedit_jax.config import EditorConfig, EditorTrainConfig
from liveedit_jax.editor.convert import from_released

MODULE_TOLERANCE = 1e-5  # modules, routing, residual
MODEL_TOLERANCE = 1e-4  # whole-model states and logits, losses, gradients
ADAM_TOLERANCE = 1e-6


class Arrays:
    """The arrays of one npz file, all checked to be finite; reading a missing one raises."""

    def __init__(self, file: Path):
        """Read `file`, without unpickling.

        Raises:
            ValueError: it is missing, or an array is not finite.
        """
        if not file.is_file():
            raise ValueError(f"{file.name} is missing")
        with np.load(file, allow_pickle=False) as stored:
            self.arrays = {name: stored[name] for name in stored.files}
        self.unread = set(self.arrays)
        for name, array in self.arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"array {name} of {file.name} is not finite")

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the array `name`; ValueError if it is missing."""
        if name not in self.arrays:
            raise ValueError(f"array {name} is missing")
        self.unread.discard(name)
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        """Return whether there is an array `name`."""
        return name in self.arrays

    def count(self, pattern: str, at_least: int = 1) -> int:
        """Count how many of pattern.format(0), pattern.format(1), ... start some name.

        Returns at least `at_least`, so that reading a missing one fails.
        """
        n = 0
        while any(name.startswith(pattern.format(n)) for name in self.arrays):
            n += 1
        return max(n, at_least)

    def children(self, prefix: str) -> list[str]:
        """List the distinct next path components under `prefix`, sorted."""
        return sorted({k[len(prefix) :].split("/")[0] for k in self.arrays if k.startswith(prefix)})


@dataclass
class GoldenCase:
    """One case folder, and the number of its items that failed."""

    folder: Path
    failures_n: int = 0
    opened: dict[str, Arrays] = field(default_factory=dict)

    def compare(self, item: str, ours, stored: np.ndarray, tolerance: float) -> None:
        """Check one item: max|difference| / max|stored|; integers and masks must be equal."""
        ours = np.asarray(ours)
        if ours.shape != stored.shape:
            self.fail(item, f"shape {ours.shape}, stored {stored.shape}")
            return
        if stored.dtype.kind != "f":
            wrong_n = int((ours != stored).sum())
            self._line(item, f"{wrong_n} of {stored.size} differ", wrong_n == 0)
            return
        if stored.size == 0:
            self._line(item, "empty, as stored", True)
            return
        largest = float(np.abs(stored).max())
        difference = float(np.abs(ours.astype(np.float64) - stored).max())
        error = difference / largest if largest > 0 else difference
        self._line(item, f"error {error:.2e} (tolerance {tolerance:.0e})", error <= tolerance)

    def check(self, item: str, holds: bool, what: str) -> None:
        """Check one item that either holds or does not."""
        self._line(item, what if holds else f"does not hold: {what}", bool(holds))

    def fail(self, item: str, why: str) -> None:
        """Count one item as failed."""
        self._line(item, why, False)

    def _line(self, item: str, text: str, passed: bool) -> None:
        self.failures_n += not passed
        print(f"{'ok  ' if passed else 'FAIL'} {self.folder.name} {item}: {text}")

    def arrays(self, name: str) -> Arrays:
        """Return the arrays of `name`.npz."""
        if name not in self.opened:
            self.opened[name] = Arrays(self.folder / f"{name}.npz")
        return self.opened[name]

    @cached_property
    def config(self) -> dict:
        """Return the content of config.json."""
        return json.loads((self.folder / "config.json").read_text())

    @property
    def is_part(self) -> bool:
        """Return whether this is a part of a case, which lacks the weights below the edit layer."""
        return "part_of" in self.config

    def least_n(self, n: int) -> int:
        """Return the least number of things of a kind: the documented n, or 0 in a part."""
        return 0 if self.is_part else n

    @cached_property
    def editor(self) -> EditorConfig:
        """Return the released code's editor settings."""
        editor = self.config["editor"]
        return EditorConfig(
            module_width=editor["module_dim"],
            heads_n=editor["cross_att_head_n"],
            rank=editor["lora_rank"],
            queries_n=editor["eqe_n"],
            expert_scale=editor["lora_scale"],
            top_k=1_000_000,  # all experts, whatever the pool
            official_double_layer=True,
            train_eos=False,
        )

    @cached_property
    def training(self) -> EditorTrainConfig:
        """Return the released code's training settings."""
        editor, weights = self.config["editor"], self.config["editor"]["lambdas"]
        return EditorTrainConfig(
            learning_rate=editor["lr"],
            lr_cut_steps=tuple(editor["lr_cut_it"]),
            lr_cut_rate=editor["lr_cut_rate"],
            weight_reliability=weights["rel"],
            weight_generality=weights["gen"],
            weight_locality=weights["loc"],
            weight_soft_routing=weights["soft_routing"],
            weight_hard_routing=weights["hard_routing"],
        )

    @cached_property
    def backbone(self) -> Backbone:
        """Return the functions of the case's small LLaVA."""
        return Backbone(config_from_hf(self.config["llava"], self.config["editor"]["edit_layer_i"]))

    @cached_property
    def backbone_weights(self) -> dict:
        """Return the weights of the case's small LLaVA; absent ones are zeros."""
        stored = self.arrays("llava_weights")
        absent = {n: np.zeros(s, np.float32) for n, s in self.config.get("absent", {}).items()}
        return convert_weights(
            self.backbone.cfg, absent | {name: stored[name] for name in stored.arrays}
        )

    def convert_released(self, stored: dict[str, np.ndarray]) -> dict:
        """Convert editor weights under the released names to ours."""
        vision_n = self.config["editor"]["vision_tok_n"]
        return from_released(self.editor, self.backbone.cfg.width, vision_n, stored)

    @cached_property
    def editor_weights(self) -> dict:
        """Return the editor's weights before training."""
        stored = self.arrays("editor_weights")
        return self.convert_released({name: stored[name] for name in stored.arrays})

    @cached_property
    def functions(self) -> Functions:
        """Return the compiled functions of this case's models."""
        weights = self.backbone_weights
        return Functions(self.backbone, weights, self.editor, self.editor_weights)


def check_config(case: GoldenCase) -> None:
    """Check the derived numbers of config.json against those that our configs imply."""
    editor, cfg = case.config["editor"], case.editor
    for name, ours in (
        ("sim_scale", cfg.module_width**-0.5),
        ("moegen_scale", 1 / (cfg.expert_scale * cfg.rank**0.5)),
    ):
        case.compare(f"config/{name}", ours, np.array(float(editor[name])), ADAM_TOLERANCE)
    for name, ours in (
        ("llm_mid_dim", case.backbone.cfg.width),
        ("vision_tok_n", case.backbone.cfg.vision_n),
    ):
        case.compare(f"config/{name}", ours, np.array(int(editor[name])), 0)
    adam = (tuple(editor["adam"]["betas"]), editor["adam"]["eps"])
    case.check("config/adam", adam == ((0.9, 0.999), 1e-8), "betas 0.9 and 0.999, eps 1e-8")
