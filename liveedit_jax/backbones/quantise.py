"""Frozen weights in 8 bits: one scale for each output of a linear layer, widened layer by layer.

A quantised layer of a scan is widened inside the scan's body, so that one layer at a time exists in
full width; gradients pass through to what is in front of it, never to it.
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones.placement import Placement, states_at, weights_at

PARTS = ("vision", "projector", "lower", "upper")  # embeddings, norms and the head stay as they are


@flax.struct.dataclass
class Int8:
    """A matrix as scale * integer; `scale` has the dtype that it is widened to."""

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


def quantise(params: dict) -> dict:
    """A backbone's weights with every kernel of its towers and layers in 8 bits."""
    parts = {name: jax.tree_util.tree_map_with_path(_to_int8, params[name]) for name in PARTS}
    return params | parts


def widen(tree):
    """The same tree with every quantised leaf in the width of its scale."""

    def wide(leaf):
        return leaf.integer.astype(leaf.scale.dtype) * leaf.scale if _is_int8(leaf) else leaf

    return jax.tree.map(wide, tree, is_leaf=_is_int8)


def widening(layer: type[nn.Module], place: Placement | None = None) -> type[nn.Module]:
    """A layer that takes its weights quantised or not, and its input, where `place` wants them."""

    class Placed(layer):
        def __call__(self, x, *args):
            return super().__call__(states_at(place, x), *args)

    def used(tree):
        return widen(weights_at(place, tree))

    return nn.map_variables(Placed, "params", trans_in_fn=used, init=True)
