"""Conversion of the checkpoints of published models to our weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from liveedit_jax.backbone_config import (
    BackboneConfig,
    ClipConfig,
    OptConfig,
    QFormerConfig,
)
from liveedit_jax.backbones import blip2_convert, llava_convert, minigpt4_convert
from liveedit_jax.backbones.backbone import Backbone
from liveedit_jax.backbones.convert import Rule, convert
from liveedit_jax.backbones.tensors import read_tensors, weight_files


def _is_minigpt4(cfg: BackboneConfig) -> bool:
    return isinstance(cfg.bridge, QFormerConfig) and not isinstance(cfg.decoder, OptConfig)


def conversion_rules(cfg: BackboneConfig) -> list[Rule]:
    """Build the conversion table of a config.

    Raises:
        ValueError: no published checkpoint combines the config's parts.
    """
    found: Callable[[BackboneConfig], list[Rule]] | None = None
    if isinstance(cfg.vision, ClipConfig):
        found = llava_convert.rules
    elif isinstance(cfg.bridge, QFormerConfig):
        found = minigpt4_convert.rules if _is_minigpt4(cfg) else blip2_convert.rules
    if found is None:
        raise ValueError("no conversion table for these parts")
    return found(cfg)


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
    if _is_minigpt4(cfg):
        places = minigpt4_convert.sources(folder)
        parts = {
            part: read_tensors(weight_files(where) if isinstance(where, Path) else where)
            for part, where in places.items()
        }
        return minigpt4_convert.join(cfg, parts)
    return read_tensors(weight_files(folder))
