"""A family of models: the parts it provides, and how its checkpoints become our weights.

A part is named by the class of its config. `registry` lists the families; nothing else asks what a
model is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Array
from PIL import Image

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones.convert import Rule
from liveedit_jax.backbones.placement import Placement
from liveedit_jax.data.layout import Layout


class Split(Enum):
    """How a module's kernel [in, out] lies on a mesh (`scaling.partition` has the axes).

    Between a COLUMN and a ROW kernel of the same layer, states stay where they are.
    """

    COLUMN = "column"  # outputs are split over the tensor axis, inputs over the weight axes
    ROW = "row"  # inputs are split over the tensor axis, outputs over the weight axes
    WHOLE = "whole"  # small, hence replicated on every device


Splits = Mapping[str, Split]  # from the name of a module (or of a part, or of a parameter)

ATTENTION: Splits = {"q": Split.COLUMN, "k": Split.COLUMN, "v": Split.COLUMN, "o": Split.ROW}
NORM_AFTER_MLP = "norm2_after"  # the norm of what a layer's MLP adds, where there is one
NORMS: Splits = {"norm1": Split.WHOLE, "norm2": Split.WHOLE}
TRANSFORMER: Splits = {**ATTENTION, **NORMS, "fc1": Split.COLUMN, "fc2": Split.ROW}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A kind of tower or bridge.

    `create(cfg, place)` makes its module. The innermost name of a weight's path that `splits` has
    decides how the weight lies on a mesh; every weight needs such a name.
    """

    config: type
    create: Callable[[BackboneConfig, Placement | None], nn.Module]
    splits: Splits


LinearCall = Callable[[str, Array], Array]  # applies one of the MLP's linear layers, by its name


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A kind of decoder; `cfg` is its config.

    `layer(cfg, keep_cache)` is the body of a scan, called as `layer(hidden, cache, context, kind)`,
    whose attention takes `context.of(kind)`. `norm(cfg)` is the norm in front of the head.
    `mlp(cfg, linear, x)` is a layer's MLP on normalised states, with `linear(name, x)` for each of
    the layers that `mlp_parts` names. Layers and editors both use it. The norm in front of it is
    called "norm2", one after it NORM_AFTER_MLP.

    Where configs have `cross_every`, `cross(cfg)` is the gated cross-attention in front of a layer,
    called as `cross(hidden, features, mask)`: token t may read feature s where mask [B, T, S] is
    True. Its weights are a part of their own, "cross", which `splits` places as well.
    """

    config: type
    layer: type[nn.Module]
    norm: Callable[[Any], nn.Module]
    mlp: Callable[[Any, LinearCall, Array], Array]
    mlp_parts: tuple[str, ...]  # in the order of application; the last one writes the output
    splits: Splits
    cross: Callable[[Any], nn.Module] | None = None


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """A way to cut pictures into tiles, of the class of a `TilesConfig`.

    `cut(cfg, picture)` gives the tiles of a picture in RGB or RGBA: RGB squares of the tower's
    size, in the order of their features. `layout(cfg, (height, width))` gives the layout of the
    tokens of a picture of a size, texts of the processor included.
    """

    config: type
    cut: Callable[[BackboneConfig, Image.Image], list[Image.Image]]
    layout: Callable[[BackboneConfig, tuple[int, int]], Layout]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models of the same three parts, whose checkpoints name their tensors alike.

    `rules` is the conversion table of a config, and `open_folder` opens the named tensors of a
    checkpoint folder. `rules` is None where no checkpoint has all parts. `tiling` is that of
    models that take pictures in tiles. `read(files)` makes the config of a checkpoint whose
    config.json has one of `model_types` out of its JSON files (`published.read_files`).
    """

    vision: Part
    bridge: Part
    decoder: Decoder
    rules: Callable[[BackboneConfig], list[Rule]] | None = None
    open_folder: Callable[[BackboneConfig, Path], Mapping[str, np.ndarray]] | None = None
    tiling: Tiling | None = None
    model_types: tuple[str, ...] = ()
    read: Callable[[Mapping[str, Any]], BackboneConfig] | None = None
