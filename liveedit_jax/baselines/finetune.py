"""Sequential fine-tuning, the simplest editor: a few Adam steps an edit on the edit layer's MLP.

Everything in front of that MLP is constant, so an edit computes it once and its steps only run the
MLP and the layers above. Weights are `{"backbone": ...}`; the state is the MLP's linear layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbones import Backbone, decoder
from liveedit_jax.data.tokenise import answer_labels
from liveedit_jax.editor.losses import answer_nll
from liveedit_jax.types import Batch


@dataclass(frozen=True)
class FinetuneConfig:
    """How hard each edit is fine-tuned; these values are not tuned yet."""

    learning_rate: float = 1e-3
    steps_n: int = 10
    stop_loss: float = 0.01  # nats a token; an edit that reached it needs no further step


def init(backbone: Backbone, params: dict) -> dict:
    """The state before the first edit: the edit layer's own MLP, `{part: {"kernel": ...}}`."""
    last, lower = backbone.cfg.edit_layer, params["backbone"]["lower"]
    parts = {name: lower[name] for name in decoder.mlp_parts(backbone.cfg.decoder)}
    return jax.tree.map(lambda leaf: leaf[last], parts)


def _with_mlp(backbone: Backbone, weights: dict, mlp: dict) -> dict:
    last, lower = backbone.cfg.edit_layer, weights["lower"]
    placed = {
        name: jax.tree.map(lambda all_, one: all_.at[last].set(one), lower[name], part)
        for name, part in mlp.items()
    }
    return weights | {"lower": lower | placed}


def merged(backbone: Backbone, params: dict, state: dict) -> dict:
    """The backbone's weights with the fine-tuned MLP in place."""
    return _with_mlp(backbone, params["backbone"], state)


def mlp_input(
    backbone: Backbone, params: dict, batch: Batch, features: Float[Array, "B P D"]
) -> Float[Array, "B T D"]:
    """The edit layer's states after its attention: its output when its MLP adds nothing."""
    final = decoder.mlp_parts(backbone.cfg.decoder)[-1]
    zeros = jax.tree.map(jnp.zeros_like, init(backbone, params)[final])
    silent = _with_mlp(backbone, params["backbone"], {final: zeros})
    return backbone.lower_from_features(silent, batch, features)


def loss(
    backbone: Backbone,
    params: dict,
    state: dict,
    states: Float[Array, "B T D"],
    batch: Batch,
) -> Float[Array, ""]:
    """Mean cross-entropy of the answer tokens and EOS, from the MLP's input."""
    weights = params["backbone"]
    cfg = backbone.cfg.decoder
    norm = jax.tree.map(lambda leaf: leaf[backbone.cfg.edit_layer], weights["lower"]["norm2"])
    x = decoder.norm(cfg).apply({"params": norm}, states)
    hidden = states + decoder.mlp(cfg, state, x)
    logits = backbone.upper(weights, hidden, batch)
    label, mask = labels(batch, backbone.cfg.eos_id)
    return answer_nll(logits, label, mask)


def labels(batch: Batch, eos_id: int) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """Next tokens where they are answer tokens, EOS after the last one, and where that is so."""
    label, answer, eos = answer_labels(batch, eos_id)
    return label, answer | eos


def edit_from_input(
    cfg: FinetuneConfig,
    backbone: Backbone,
    params: dict,
    state: dict,
    states: Float[Array, "B T D"],
    batch: Batch,
) -> tuple[dict, Float[Array, " steps"]]:
    """One edit from the MLP's input: a fresh Adam, `steps_n` steps or until the loss is small.

    Returns:
        The state and the loss before each step; NaN for the steps that were not needed.
    """
    optimizer = optax.adam(cfg.learning_rate)
    gradient_of = jax.value_and_grad(lambda state: loss(backbone, params, state, states, batch))

    def unfinished(carry):
        step, _, _, losses = carry
        last = losses[jnp.maximum(step - 1, 0)]
        return (step < cfg.steps_n) & ((step == 0) | (last > cfg.stop_loss))

    def advance(carry):
        step, state, moments, losses = carry
        value, gradient = gradient_of(state)
        change, moments = optimizer.update(gradient, moments)
        return step + 1, optax.apply_updates(state, change), moments, losses.at[step].set(value)

    begin = (0, state, optimizer.init(state), jnp.full(cfg.steps_n, jnp.nan))
    _, state, _, losses = jax.lax.while_loop(unfinished, advance, begin)
    return state, losses


def edit(cfg: FinetuneConfig, backbone: Backbone, params: dict, state: dict, batch: Batch) -> dict:
    """Fine-tune on the requests (image, prompt, target) of a batch."""
    features = backbone.vision_features(params["backbone"], batch.image)
    states = mlp_input(backbone, params, batch, features)
    return edit_from_input(cfg, backbone, params, state, states, batch)[0]


def logits(backbone: Backbone, params: dict, state: dict, batch: Batch) -> Float[Array, "B T V"]:
    """The fine-tuned model's logits."""
    weights = merged(backbone, params, state)
    return backbone.upper(weights, backbone.lower(weights, batch), batch)


jit_mlp_input = jax.jit(mlp_input, static_argnums=0)
jit_edit = partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)(edit_from_input)
