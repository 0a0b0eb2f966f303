"""Adapters: editors that keep a layer's MLP and change the output that it adds to the states.

    states ─┬─ norm ─ MLP ─► output ─┬─► upper ─► logits
            └────────────────────────┘

No edit changes `states` or the output of the MLP itself, so both are computed once a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.baselines import layer
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.editors import Editor
from liveedit_jax.types import AnyArray, Batch, Role


class MlpStates(NamedTuple):
    """The states around the MLP of B rows, which no edit changes."""

    states: Float[Array, "B T D"]  # in front of the MLP
    output: Float[Array, "B T D"]  # of the unedited MLP


class MlpAdapter(Editor, Protocol):
    """An editor that changes the output of one MLP."""

    def encode(self, backbone, params, batch, seen):
        """Compute the states in front of the MLP, and its unedited output."""
        weights = params["backbone"]
        states = layer.mlp_states(backbone, weights, batch, seen)
        mlp = layer.mlp_weights(backbone, weights)
        return MlpStates(states, layer.mlp_output(backbone, weights, mlp, states))

    def edited_output(
        self, backbone: Backbone, weights: dict, state: Any, known: MlpStates, batch: Batch
    ) -> Float[Array, "B T D"]:
        """Compute what the edited layer adds to the states in the MLP's place."""

    def logits(self, backbone, params, state, known, batch, at):
        """Compute the logits of the model with the edited output."""
        weights = params["backbone"]
        output = self.edited_output(backbone, weights, state, known, batch)
        hidden = backbone.keep_features(known.states, known.states + output, batch.role)
        return backbone.upper(weights, hidden, batch, at)


def edited_loss(
    backbone: Backbone, weights: dict, known: MlpStates, output: Float[Array, "B T D"], batch: Batch
) -> Float[Array, ""]:
    """Compute the loss of the targets where the MLP's output is replaced by this one."""
    hidden = backbone.keep_features(known.states, known.states + output, batch.role)
    return target_loss(backbone, backbone.upper(weights, hidden, batch), batch)


def prompt_end(role: Int[AnyArray, "B T"]) -> Int[Array, " B"]:
    """Return the position of the prompt's last token; 0 without a prompt."""
    return jnp.where(role == Role.PROMPT, jnp.arange(role.shape[1]), 0).max(1)


def prediction_mask(role: Int[AnyArray, "B T"]) -> Bool[Array, "B T"]:
    """Mask the prompt's last token and all after it: they predict the answer and EOS."""
    return (jnp.arange(role.shape[1]) >= prompt_end(role)[:, None]) & (role != Role.PAD)


def query(backbone: Backbone, weights: dict, known: MlpStates, batch: Batch) -> Float[Array, "B D"]:
    """Return the MLP's input at the prompt's last token, which attends to image and prompt."""
    place = prompt_end(batch.role)[:, None, None]
    states = jnp.take_along_axis(known.states, place, axis=1)
    return layer.mlp_input(backbone, weights, states)[:, 0]


def drop_images(batch: Batch) -> Batch:
    """Remove the rows' images: an edit about a picture should not change such rows."""
    return batch.replace(role=jnp.where(batch.role == Role.VISION, Role.PAD, batch.role))


def insert_rows(
    rows: Float[Array, "N ..."],
    new: Float[Array, "T ..."],
    mask: Bool[Array, " T"],
    used_n: Int[Array, ""],
    wrap: bool = False,
) -> Float[Array, "N ..."]:
    """Write the masked new rows behind the first `used_n`.

    Rows that do not fit are dropped or, with `wrap`, overwrite the first ones.
    """
    place = used_n + jnp.cumsum(mask) - 1
    place = place % len(rows) if wrap else place
    return rows.at[jnp.where(mask, place, len(rows))].set(new)
