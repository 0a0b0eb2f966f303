"""Where the `down` generator starts: rows that fire right before the token they are made from.

An expert's row says "after this state comes that token": `up` writes the token of an answer
position j, and `down` has to fire at position j - 1 and nowhere else. Whether it can is a property
of the frozen states alone, so the map from the state at j to such a `down` is fitted to them before
training begins: for normalised states h, the score <h_t, W h_j + b> shall be 1 at t = j - 1 and not
positive where another token stands.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.editor.attention import normalise
from liveedit_jax.types import Batch, Role

STEPS_N, BATCH_N, RATE = 2500, 64, 5e-3


class Gates(NamedTuple):
    """Score of position t for the row made from position j: <h_t, h_j @ kernel + bias>."""

    kernel: Float[Array, "D D"]
    bias: Float[Array, " D"]


def gate_loss(
    gates: Gates, states: Float[Array, "B T D"], token: Int[Array, "B T"], role: Int[Array, "B T"]
) -> Float[Array, ""]:
    """Mean over answer positions j of (1 - score at j - 1)² + Σ_t relu(score at t)².

    The sum runs over all positions that are not PAD and hold another token than j - 1 does.

    Args:
        gates: what is fitted.
        states: normalised edit-layer states of edits.
        token: their tokens.
        role: their roles.
    """
    down = states @ gates.kernel + gates.bias
    score = jnp.einsum("bjd,btd->bjt", down, states)
    before = jnp.roll(token, 1, axis=1)
    other = (token[:, None, :] != before[:, :, None]) & (role != Role.PAD)[:, None, :]
    fires = jnp.where(other, jax.nn.relu(score), 0.0) ** 2
    right = jnp.pad(jnp.diagonal(score, -1, 1, 2), ((0, 0), (1, 0)))  # at t = j - 1
    is_answer = role == Role.ANSWER
    error = (1 - right) ** 2 + fires.sum(-1)
    return jnp.sum(error * is_answer) / jnp.maximum(is_answer.sum(), 1)


@partial(jax.jit, static_argnums=3)
def fit_gates(
    states: Float[Array, "N T D"], token: Int[Array, "N T"], role: Int[Array, "N T"], seed: int
) -> tuple[Gates, Float[Array, ""]]:
    """Gates fitted to N edits by Adam (cosine to zero), and the loss of the last tenth of steps."""
    width = states.shape[-1]
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS_N))
    gates = Gates(jnp.eye(width) * 0.1, jnp.zeros(width))

    def loss(scaled: Gates, rows: Int[Array, " B"]) -> Float[Array, ""]:
        # scores are sums of D products: fitted at D times their size, entries are of order 0.1
        return gate_loss(
            jax.tree.map(lambda leaf: leaf / width, scaled), states[rows], token[rows], role[rows]
        )

    def step(carry, key):
        gates, moments = carry
        rows = jax.random.randint(key, (min(BATCH_N, len(states)),), 0, len(states))
        value, grads = jax.value_and_grad(loss)(gates, rows)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(gates, updates), moments), value

    keys = jax.random.split(jax.random.key(seed), STEPS_N)
    (gates, _), values = jax.lax.scan(step, (gates, optimizer.init(gates)), keys)
    return jax.tree.map(lambda leaf: leaf / width, gates), values[-STEPS_N // 10 :].mean()


def edit_states(
    backbone: Backbone,
    weights: dict,
    pictures: Float[Array, "X P D"],
    data: EditingData,
    eps: float,
    batches_n: int = 60,
) -> tuple[Float[Array, "N T D"], Int[Array, "N T"], Int[Array, "N T"]]:
    """Normalised states, tokens and roles of the edits of the first batches, padded to one T."""
    t = max(length for length, _ in data.mixture.lengths)

    @jax.jit
    def states_of(batch: Batch, features: Float[Array, "N P D"]) -> Float[Array, "N T D"]:
        return normalise(backbone.lower_from_features(weights, batch, features), eps)

    states, tokens, roles = [], [], []
    for i in range(batches_n):
        batch = data.batch_at(i)
        pad = ((0, 0), (0, t - batch.token.shape[-1]))
        token, role = np.pad(batch.token[0], pad), np.pad(batch.role[0], pad)
        rows = Batch(token, role, np.zeros((len(token), 1, 1, 3), np.float32))
        states.append(states_of(rows, pictures[batch.picture[0]]))
        tokens.append(token)
        roles.append(role)
    return jnp.concatenate(states), np.concatenate(tokens), np.concatenate(roles)


def start_gates(cfg: EditorConfig, params: dict, gates: Gates, gain: float) -> dict:
    """Editor weights whose `down` rows are `gain` times the gate of the token they attend to."""
    size = gain * cfg.expert_scale * cfg.rank**0.5  # bodies are divided by s * sqrt(R)
    value = {"kernel": size * gates.kernel, "bias": size * gates.bias}
    down = params["down"]
    return params | {"down": down | {"attention": down["attention"] | {"v": value}}}
