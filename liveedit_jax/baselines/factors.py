"""The factors of a request's gradient with respect to the MLPs above the split, token by token.

A linear layer's gradient is a sum over tokens: the outer product of its input and of the loss's
gradient with respect to its output.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from liveedit_jax.backbones import Backbone, decoder
from liveedit_jax.backbones.quantise import dequantise
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.types import Batch


class GradientFactors(NamedTuple):
    """The gradient's factors for one linear layer of each of L decoder layers, token by token."""

    read: Float[Array, "L B T X"]  # the input
    error: Float[Array, "L B T Y"]  # the gradient with respect to the output

    @property
    def concatenated(self) -> Float[Array, "L B T W"]:
        """Concatenate both factors (W = X + Y), as the network takes them."""
        return jnp.concatenate(self, -1).astype(jnp.float32)

    @property
    def mask(self) -> Float[Array, "L B T 1"]:
        """Return 1 at the tokens that the loss depends on, 0 elsewhere."""
        return (self.error != 0).any(-1, keepdims=True).astype(jnp.float32)


def gradient_factors(
    backbone: Backbone, weights: dict, hidden: Float[Array, "B T D"], batch: Batch
) -> dict[str, GradientFactors]:
    """Compute the factors of the target loss's gradient, for each linear layer of the MLP.

    `error` is taken as the gradient with respect to zeros that are added to each layer's output.
    """
    cfg, context = backbone.cfg.decoder, backbone.with_cross(weights, backbone.context(batch))
    upper, names = dequantise(weights["upper"]), decoder.mlp_parts(backbone.cfg.decoder)

    kinds = decoder.layer_kinds(cfg, backbone.lower_n, backbone.upper_n)

    def run(states: Array, layer: tuple[dict, dict, decoder.Kind]) -> tuple[Array, dict]:
        own, zeros, kind = layer
        silent = own | {names[-1]: jax.tree.map(jnp.zeros_like, own[names[-1]])}
        states = decoder.layer(cfg).apply({"params": silent}, states, None, context, kind)[0]
        read = {}

        def linear(name: str, x: Array) -> Array:
            read[name] = x
            return decoder.linear(own[name], x) + zeros[name]

        changed = states + decoder.mlp_with(cfg, own, linear, states)
        return backbone.keep_features(states, changed, batch.role), read

    def loss(zeros: dict) -> tuple[Array, dict]:
        states, read = jax.lax.scan(run, hidden, (upper, zeros, kinds))
        return target_loss(backbone, backbone.head(weights, states), batch), read

    layers_n, shape = backbone.upper_n, hidden.shape[:2]
    zeros = {
        name: jnp.zeros((layers_n, *shape, upper[name]["kernel"].shape[-1]), hidden.dtype)
        for name in names
    }
    error, read = jax.grad(loss, has_aux=True)(zeros)
    return {name: GradientFactors(read[name], error[name]) for name in names}


def add_changes(weights: dict, change: dict[str, Float[Array, "L X Y"]]) -> dict:
    """Return the backbone's weights with changes added to the kernels of `upper`."""
    upper = dequantise(weights["upper"])
    placed = {
        name: upper[name]
        | {"kernel": (upper[name]["kernel"] + own).astype(upper[name]["kernel"].dtype)}
        for name, own in change.items()
    }
    return weights | {"upper": upper | placed}


def feature_statistics(factors: GradientFactors) -> dict[str, Float[Array, "L W"]]:
    """Compute every feature's mean and log standard deviation over the tokens with a gradient."""
    x, mask = factors.concatenated, factors.mask
    count = jnp.maximum(mask.sum((1, 2)), 1)
    mean = (x * mask).sum((1, 2)) / count
    square = (jnp.square(x - mean[:, None, None]) * mask).sum((1, 2)) / count
    return {"mean": mean, "log_spread": jnp.log(jnp.maximum(square, 1e-20)) / 2}
