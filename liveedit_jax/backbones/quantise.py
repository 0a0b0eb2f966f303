"""Frozen weights in 8 bits, with a scale for each output of a linear layer.

The layers of a scan are dequantised inside the scan's body, so that only one layer at a time exists
in full width. Gradients pass through a layer to its input, never to its weights.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones.placement import Placement, place_states, place_weights

PARTS = ("vision", "projector", "lower", "upper", "cross")  # whose kernels are quantised


class Int8(NamedTuple):
    """A matrix scale * integer; the dtype of `scale` is that of the dequantised matrix."""

    integer: Int[Array, "... X Y"]  # int8
    scale: Float[Array, "... 1 Y"]


def _is_int8(leaf) -> bool:
    return isinstance(leaf, Int8)


def _to_int8(path, leaf: Array):
    if path[-1].key != "kernel" or leaf.ndim not in (2, 3):
        return leaf
    wide = leaf.astype(jnp.float32)
    scale = jnp.maximum(jnp.abs(wide).max(-2, keepdims=True) / 127, jnp.finfo(jnp.float32).tiny)
    integer = jnp.clip(jnp.round(wide / scale), -127, 127).astype(jnp.int8)
    return Int8(integer, scale.astype(leaf.dtype))


def quantise(weights: dict) -> dict:
    """Quantise all kernels of a backbone's tower, bridge and layers to 8 bits."""
    parts = [name for name in PARTS if name in weights]
    return weights | {
        name: jax.tree_util.tree_map_with_path(_to_int8, weights[name]) for name in parts
    }


def dequantise(tree):
    """Dequantise all quantised leaves of a tree."""

    def wide(leaf):
        return leaf.integer.astype(leaf.scale.dtype) * leaf.scale if _is_int8(leaf) else leaf

    return jax.tree.map(wide, tree, is_leaf=_is_int8)


def dequantise_layer(layer: type[nn.Module], place: Placement | None = None) -> type[nn.Module]:
    """Wrap a layer's class so that it dequantises its weights, and places them and its input."""

    class Placed(layer):  # type: ignore[misc, valid-type]  # a base that is known at run time
        def __call__(self, x, *args):
            return super().__call__(place_states(place, x), *args)

    def used(tree):
        return dequantise(place_weights(place, tree))

    return nn.map_variables(Placed, "params", trans_in_fn=used, init=True)
