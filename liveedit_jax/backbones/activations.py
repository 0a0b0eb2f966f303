"""The activation functions that configs name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
from jaxtyping import Array

from liveedit_jax.backbone_config import Activation


def quick_gelu(x: Array) -> Array:
    """Apply CLIP's activation x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    Activation.RELU: jax.nn.relu,
    Activation.SILU: jax.nn.silu,
    Activation.GELU: partial(jax.nn.gelu, approximate=False),
    Activation.GELU_TANH: partial(jax.nn.gelu, approximate=True),
    Activation.QUICK_GELU: quick_gelu,
}
