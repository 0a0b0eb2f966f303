"""Conversion of the checkpoints of published models to our weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones.backbone import Backbone
from liveedit_jax.backbones.convert import Rule, convert
from liveedit_jax.backbones.registry import find_family
from liveedit_jax.backbones.tensors import read_tensors, weight_files


def conversion_rules(cfg: BackboneConfig) -> list[Rule]:
    """Build the conversion table of a config.

    Raises:
        ValueError: no published checkpoint combines the config's parts.
    """
    rules = find_family(cfg).rules
    if rules is None:
        raise ValueError("no published checkpoint has all of these parts")
    return rules(cfg)


def convert_weights(
    cfg: BackboneConfig,
    weights: Mapping[str, np.ndarray],
    dtype=np.float32,
    shardings: dict | jax.sharding.Sharding | None = None,
) -> dict:
    """Convert named weights to ours.

    Args:
        cfg: the backbone.
        weights: named arrays; for MiniGPT-4, with the names of `minigpt4_convert.join`.
        dtype: the dtype of every leaf.
        shardings: where to put the leaves, as in `convert.convert`; None: numpy arrays.

    Raises:
        ValueError: weights do not fit; the message lists every unknown, doubled, missing,
            mis-shaped or non-finite name.
    """
    like = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    return convert(weights, conversion_rules(cfg), like, dtype, shardings)


def open_folder(cfg: BackboneConfig, folder: Path) -> Mapping[str, np.ndarray]:
    """Open the named tensors of a checkpoint folder; they are read on access.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    open_own = find_family(cfg).open_folder
    return read_tensors(weight_files(folder)) if open_own is None else open_own(cfg, folder)
