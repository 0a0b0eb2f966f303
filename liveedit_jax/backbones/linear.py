"""Linear layers that multiply in the dtype of their kernel.

Usually weights and states have the same dtype, and these are ordinary linear layers. For training
an editor, `round_kernels` rounds the kernels of frozen float32 weights to bfloat16. States, norms
and sums then stay in float32, and only the factors of products are rounded, in the forward and the
backward pass. Processors with bfloat16 instructions do twice the work in the same time.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from liveedit_jax.types import AnyArray

LAYERS = ("lower", "upper", "cross")


@jax.custom_vjp
def _rounded(x: Float[Array, "N D"], kernel: Float[AnyArray, "D W"]) -> Float[Array, "N W"]:
    return jax.lax.dot_general(
        x.astype(kernel.dtype), kernel, (((1,), (0,)), ((), ())), preferred_element_type=x.dtype
    )


def _rounded_forward(x: Array, kernel: Array):
    return _rounded(x, kernel), (x, kernel)


def _rounded_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    narrow = g.astype(kernel.dtype)
    to_x = jax.lax.dot_general(
        narrow, kernel, (((1,), (1,)), ((), ())), preferred_element_type=x.dtype
    )
    to_kernel = jax.lax.dot_general(
        x.astype(kernel.dtype), narrow, (((0,), (0,)), ((), ())), preferred_element_type=x.dtype
    )
    return to_x, to_kernel.astype(kernel.dtype)


_rounded.defvjp(_rounded_forward, _rounded_backward)


def product(x: Float[Array, "... D"], kernel: Float[AnyArray, "D W"]) -> Float[Array, "... W"]:
    """Compute x @ kernel in x's dtype; if the kernel's is narrower, x is rounded to it first."""
    if jnp.dtype(kernel.dtype).itemsize >= jnp.dtype(x.dtype).itemsize:
        return x @ kernel
    return _rounded(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


class Linear(nn.Module):
    """A linear layer x @ kernel + bias that multiplies with `product`."""

    width: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... W"]:
        """Apply the layer; the result has x's dtype."""
        shape = (x.shape[-1], self.width)
        y = product(x, self.param("kernel", nn.initializers.lecun_normal(), shape))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.width,))
        return y


def round_kernels(weights: dict) -> dict:
    """Round the kernels of a backbone's decoder layers to bfloat16."""

    def half(path, leaf: Array) -> Array:
        return leaf.astype(jnp.bfloat16) if path[-1].key == "kernel" else leaf

    return weights | {
        name: jax.tree_util.tree_map_with_path(half, weights[name])
        for name in LAYERS
        if name in weights
    }
