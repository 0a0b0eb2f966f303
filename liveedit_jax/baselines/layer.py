"""The MLP that an editor acts on, in the last layer of `lower`, and the model around it.

    states ─┬─ norm ─ MLP ─┬─► hidden ─ upper ─► logits
            └──────────────┘

`states` are the same before and after edits of this MLP.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone, decoder
from liveedit_jax.backbones.family import NORM_AFTER_MLP
from liveedit_jax.backbones.registry import apply_module
from liveedit_jax.types import Batch


def mlp_weights(backbone: Backbone, weights: dict) -> dict:
    """Return the MLP's linear layers, `{part: {"kernel": ...}}`."""
    last, lower = backbone.cfg.edit_layer, weights["lower"]
    parts = {name: lower[name] for name in decoder.mlp_parts(backbone.cfg.decoder)}
    return jax.tree.map(lambda leaf: leaf[last], parts)


def replace_mlp(backbone: Backbone, weights: dict, mlp: dict) -> dict:
    """Return the backbone's weights with all or some of the MLP's linear layers replaced."""
    last, lower = backbone.cfg.edit_layer, weights["lower"]
    placed = {
        name: jax.tree.map(lambda all_, one: all_.at[last].set(one), lower[name], part)
        for name, part in mlp.items()
    }
    return weights | {"lower": lower | placed}


def mlp_states(
    backbone: Backbone, weights: dict, batch: Batch, features: Float[Array, "B P D"] | None
) -> Float[Array, "B T D"]:
    """Compute the states in front of the MLP: the layer's output when its MLP adds nothing."""
    final = decoder.mlp_parts(backbone.cfg.decoder)[-1]
    zeros = jax.tree.map(jnp.zeros_like, mlp_weights(backbone, weights)[final])
    silent = replace_mlp(backbone, weights, {final: zeros})
    return backbone.lower_from_features(silent, batch, features)


def mlp_input(
    backbone: Backbone, weights: dict, states: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
    """Compute the MLP's input: the states after the layer's second norm."""
    norm = jax.tree.map(lambda leaf: leaf[backbone.cfg.edit_layer], weights["lower"]["norm2"])
    return apply_module(decoder.norm(backbone.cfg.decoder), norm, states)


def mlp_output(
    backbone: Backbone, weights: dict, mlp: dict, states: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
    """Compute what an MLP with these linear layers adds to states."""
    last, lower = backbone.cfg.edit_layer, weights["lower"]
    norms = {name: lower[name] for name in ("norm2", NORM_AFTER_MLP) if name in lower}
    own = jax.tree.map(lambda leaf: leaf[last], norms) | mlp
    return decoder.mlp(backbone.cfg.decoder, own, states)


def logits_with_mlp(
    backbone: Backbone,
    weights: dict,
    mlp: dict,
    states: Float[Array, "B T D"],
    batch: Batch,
    at: Int[Array, "B A"] | None = None,
) -> Float[Array, "B A V"]:
    """Compute logits with these linear layers as the MLP, at some or (`at` None) all positions."""
    changed = states + mlp_output(backbone, weights, mlp, states)
    hidden = backbone.keep_features(states, changed, batch.role)
    return backbone.upper(weights, hidden, batch, at)
