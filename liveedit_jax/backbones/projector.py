"""LLaVA's bridge from the vision tower to the decoder: two linear layers with an exact GELU."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float


class Projector(nn.Module):
    """An MLP linear(gelu(linear(x))) from vision width W to decoder width D."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B P W"]) -> Float[Array, "B P D"]:
        """Project vision states to the decoder's width."""
        x = nn.Dense(self.width, name="linear1")(x)
        return nn.Dense(self.width, name="linear2")(jax.nn.gelu(x, approximate=False))
