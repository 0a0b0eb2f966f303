"""Fits the maps of pictures and prompts to directions, and their thresholds, to frozen states.

Pictures: the mean state is centred on the training drawings'. The threshold is the cosine that a
given share of pairs of different subjects exceeds. Prompts: a linear map is trained on stored
features so that two wordings of a question have a score above 0 and all other pairs of the batch,
an entity's other questions among them, one below (a sigmoid loss; pairs that ask the same are left
out). All of it takes seconds, and reads only what training may see.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import DirectionsFitConfig, EditorConfig
from liveedit_jax.data.asked import AskedGroups
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.facts import SOURCES
from liveedit_jax.data.tokenise import build_row, tokenise_pair, without_pixels
from liveedit_jax.editor import directions
from liveedit_jax.editor.attention import with_norm_stats
from liveedit_jax.types import Batch

ROWS_N = 200  # rows of one call


class Asked(NamedTuple):
    """Prompts of G groups of N questions, in two wordings each, as `prompt_features`."""

    features: Float[Array, "G N 2 X"]
    question: Int[Array, "G N"]  # equal numbers ask the same


def ask(
    backbone: Backbone,
    weights: dict,
    pictures: Float[Array, "X P D"],
    data: EditingData,
    groups: AskedGroups,
    eps: float,
) -> Asked:
    """Compute the features of all prompts of some groups; the longest are cut to the budget."""
    rows = []
    for wordings in groups.prompts:
        for prompt in (prompt for pair in wordings for prompt in pair):
            ids, _ = tokenise_pair(data.tokenizer, prompt, None, data.backbone.after_image)
            ids = ids[: data.budget.prompt_n]
            rows.append(build_row(data.backbone, ids, [], data.vision_n, [data.backbone.bos_id]))
    t = max(len(ids) for ids, _ in rows)
    token, role = (np.zeros((len(rows), t), kind) for kind in (np.int32, np.int8))
    for i, (ids, roles) in enumerate(rows):
        token[i, : len(ids)], role[i, : len(ids)] = ids, roles
    shown = groups.picture.reshape(-1)

    @jax.jit
    def features(weights: dict, batch: Batch, seen: Float[Array, "B P D"]) -> Array:
        tokens = with_norm_stats(backbone.lower_from_features(weights, batch, seen), eps)
        words = backbone.mean_word(weights, batch)
        return directions.prompt_features(tokens, batch.role, words)

    found = []
    for i in range(0, len(rows), ROWS_N):
        at = np.minimum(np.arange(i, i + ROWS_N), len(rows) - 1)
        found.append(features(weights, without_pixels(token[at], role[at]), pictures[shown[at]]))
    every = jnp.concatenate(found)[: len(rows)]
    return Asked(every.reshape(*groups.picture.shape, -1), jnp.asarray(groups.question))


def fit_image(cfg: EditorConfig, fit: DirectionsFitConfig, images: Float[Array, "X D"]) -> dict:
    """Fit the map of pictures.

    Args:
        cfg: the editor.
        fit: the share of wrong pairs that the threshold lets through.
        images: the mean normalised state of every drawing; the drawings of an entity follow each
            other.
    """
    params = directions.init_image(cfg, images.shape[1])
    params["bias"] = -images.mean(0) @ params["kernel"]
    found, subject = directions.direction(params, images), np.arange(len(images)) // len(SOURCES)
    wrong = np.asarray(found @ found.T)[subject[:, None] != subject]
    params["threshold"] = jnp.asarray(np.quantile(wrong, 1 - fit.image_false_share), jnp.float32)
    return params


def pair_loss(
    params: dict, first: Float[Array, "B X"], second: Float[Array, "B X"], question: Array
) -> Float[Array, ""]:
    """Compute the sigmoid loss of B pairs, with all other pairs as negatives."""
    a, b = (directions.direction(params, x) for x in (first, second))
    score = params["slope"] * a @ b.T - params["offset"]
    other = question[:, None] != question
    wrong = jnp.sum(jax.nn.softplus(score), where=other) / len(first)
    return jax.nn.softplus(-jnp.diag(score)).mean() + wrong


def fit_text(cfg: EditorConfig, fit: DirectionsFitConfig, asked: Asked, seed: int) -> dict:
    """Fit the map of prompts, and the slope and offset of their score."""
    features = asked.features
    mean, spread = features.mean((0, 1, 2)), features.std((0, 1, 2)) + 1e-4
    features = (features - mean) / spread
    keys = jax.random.split(jax.random.key(seed), 2)
    params = directions.init_text(keys[0], cfg, features.shape[-1] // 2)
    rate = optax.cosine_decay_schedule(fit.learning_rate, fit.steps_n)
    optimizer = optax.adamw(rate, weight_decay=fit.weight_decay)

    def loss(params: dict, key: Array) -> Float[Array, ""]:
        draw, drop = jax.random.split(key)
        at = jax.random.choice(draw, len(features), (fit.batch_groups_n,), replace=False)
        some = features[at].reshape(-1, 2, features.shape[-1])
        kept = jax.random.bernoulli(drop, 1 - fit.dropout, some.shape)
        some = jnp.where(kept, some / (1 - fit.dropout), 0.0)
        return pair_loss(params, some[:, 0], some[:, 1], asked.question[at].reshape(-1))

    @jax.jit
    def run(params: dict, keys: Array) -> tuple[dict, Array]:
        def step(carry, key):
            params, moments = carry
            value, grads = jax.value_and_grad(loss)(params, key)
            updates, moments = optimizer.update(grads, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params, values[-len(keys) // 10 :].mean()

    params, value = run(params, jax.random.split(keys[1], fit.steps_n))
    print(f"text keys fitted: loss {value:.3f}")
    kernel = params["kernel"] / spread[:, None]
    return params | {"kernel": kernel, "bias": params["bias"] - mean @ kernel}
