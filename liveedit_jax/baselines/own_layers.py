"""A few layers of the decoder's kind that an editor trains from scratch."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from liveedit_jax.backbones import Backbone, decoder
from liveedit_jax.types import Batch


def fresh_layers(backbone: Backbone, layers_n: int, key: Array) -> dict:
    """Weights of new layers."""
    cfg, x = backbone.cfg.decoder, jnp.zeros((1, 2, backbone.cfg.width))
    context = decoder.context(cfg, jnp.zeros((1, 2), int), jnp.ones((1, 2, 2), bool))
    return decoder.stack(cfg, layers_n, False, False).init(key, x, None, context)["params"]


def run_layers(
    backbone: Backbone, layers_n: int, params: dict, x: Float[Array, "B T D"], batch: Batch
) -> Float[Array, "B T D"]:
    """States behind them; tokens see those before them, as everywhere."""
    stack = decoder.stack(backbone.cfg.decoder, layers_n, False, False)
    return stack.apply({"params": params}, x, None, backbone.context(batch))[0]
