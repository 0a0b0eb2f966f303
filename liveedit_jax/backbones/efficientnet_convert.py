"""Conversion of EfficientNet-lite weights with the names of EfficientNet-PyTorch."""

from __future__ import annotations

import numpy as np

from liveedit_jax.backbone_config import EfficientNetConfig
from liveedit_jax.backbones.convert import Rule

NORM = (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var"))


def _conv(array: np.ndarray) -> np.ndarray:
    """Transpose a convolution from torch's [out, in, i, j] to [i, j, in, out]."""
    return array.transpose(2, 3, 1, 0)


def _conv_norm(conv: str, norm: str, ours: str) -> list[Rule]:
    table = [Rule(rf"{conv}\.weight", f"{ours}/conv/kernel", _conv)]
    table += [Rule(rf"{norm}\.{theirs}", f"{ours}/norm/{name}") for theirs, name in NORM]
    return table


def rules(cfg: EfficientNetConfig) -> list[Rule]:
    """Build the conversion table of the tower; the classifier is left out."""
    table = [
        *_conv_norm("_conv_stem", "_bn0", "vision/stem"),
        *_conv_norm("_conv_head", "_bn1", "vision/head"),
        Rule(r"_fc\..*", None),
        Rule(r".*num_batches_tracked", None),
    ]
    at = 0
    for stage in cfg.stages:
        for _ in range(stage.blocks_n):
            theirs, ours = rf"_blocks\.{at}\.", f"vision/block{at}/"
            if stage.expand_ratio != 1:
                table += _conv_norm(theirs + "_expand_conv", theirs + "_bn0", ours + "expand")
            table += _conv_norm(theirs + "_depthwise_conv", theirs + "_bn1", ours + "depthwise")
            table += _conv_norm(theirs + "_project_conv", theirs + "_bn2", ours + "project")
            at += 1
    return table
