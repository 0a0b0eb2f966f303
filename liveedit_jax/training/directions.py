"""Fits the maps of pictures and prompts to directions, and their thresholds, to frozen states.

A linear map is trained on stored features so that two views of a picture, or two wordings of a
question, have a score above 0 and all other pairs of the batch one below (a sigmoid loss; pairs
that show or ask the same are left out). Hard negatives: pictures alike, and the other questions
about an entity. Then the thresholds are set to let a given share of wrong pairs through. All of it
takes minutes, and reads only what training may see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import DirectionsFitConfig, EditorConfig
from liveedit_jax.data.asked import AskedGroups
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.images import normalise_pixels
from liveedit_jax.data.instances import Instance
from liveedit_jax.data.layout import build_row
from liveedit_jax.data.tokenise import tokenise_pair, without_pixels
from liveedit_jax.editor import directions
from liveedit_jax.editor.attention import with_norm_stats
from liveedit_jax.editor.routing import FEWEST_EDITS
from liveedit_jax.training.pretrain import picture_rows
from liveedit_jax.types import Batch

ROWS_N = 200  # rows of one call
LOOKED_N = 16  # pictures of one call, with all their views
CALIBRATED_EVERY = 4  # one subject in so many is kept for the threshold
CALIBRATED_EDITS_N = 2_000  # live edits, at which the upper point of the threshold is measured
IMAGE_SCORE = {"slope": jnp.float32(20.0), "offset": jnp.float32(12.0)}  # the loss's first score
Item = TypeVar("Item")


def batched(items: Iterable[Item], n: int) -> Iterator[list[Item]]:
    """Yield lists of n items; the last one may be shorter."""
    source = iter(items)
    while some := list(islice(source, n)):
        yield some


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
    rows, cfg = [], data.backbone
    for wordings in groups.prompts:
        for prompt in (prompt for pair in wordings for prompt in pair):
            ids, _ = tokenise_pair(data.tokenizer, prompt, None, cfg.after_image)
            ids = ids[: data.budget.prompt_n]
            rows.append(build_row(cfg, ids, [], data.picture_row, cfg.plain_pre))
    t = max(len(row.token) for row in rows)
    kinds = (np.int32, np.int8, np.int32)
    token, role, place = (np.zeros((len(rows), t), kind) for kind in kinds)
    for i, row in enumerate(rows):
        n = len(row.token)
        token[i, :n], role[i, :n], place[i, :n] = row
    shown = groups.picture.reshape(-1)

    @jax.jit
    def features(weights: dict, batch: Batch, seen: Float[Array, "B P D"]) -> Array:
        tokens = with_norm_stats(backbone.lower_from_features(weights, batch, seen), eps)
        words = backbone.mean_word(weights, batch)
        return directions.prompt_features(tokens, batch.role, words)

    found = []
    for i in range(0, len(rows), ROWS_N):
        at = np.minimum(np.arange(i, i + ROWS_N), len(rows) - 1)
        batch = without_pixels(token[at], role[at])
        if cfg.tiles is not None:
            batch = batch.replace(place=place[at])
        found.append(features(weights, batch, pictures[shown[at]]))
    every = jnp.concatenate(found)[: len(rows)]
    return Asked(every.reshape(*groups.picture.shape, -1), jnp.asarray(groups.question))


class Seen(NamedTuple):
    """X pictures in V + 1 views each, the first of which is the picture itself."""

    features: Float[Array, "X V+1 F"]  # `picture_features`
    subject: Int[np.ndarray, " X"]  # equal numbers show the same thing
    is_drawing: Bool[np.ndarray, " X"]  # of a training entity


def look(
    backbone: Backbone, weights: dict, cfg: EditorConfig, instances: Iterable[Instance]
) -> Seen:
    """Compute the features of pictures and their views.

    Raises:
        ValueError: the backbone cuts pictures into tiles.
    """
    if backbone.cfg.tiles is not None:
        raise ValueError("image_direction_n: maps of pictures in tiles cannot be fitted")

    @jax.jit
    def features(weights: dict, pixels: Float[Array, "N S S 3"]) -> Float[Array, "N F"]:
        seen = backbone.vision_features(weights, pixels)
        rows = picture_rows(backbone, len(pixels))
        hidden = backbone.lower_from_features(weights, rows, seen)
        return directions.picture_features(cfg, with_norm_stats(hidden, cfg.norm_eps), rows.role)

    found, subject, is_drawing = [], [], []
    for some in tqdm(batched(instances, LOOKED_N), desc="pictures", unit="batch", mininterval=5):
        pixels = np.concatenate([one.views for one in some])
        padded = np.resize(pixels, (LOOKED_N * len(some[0].views), *pixels.shape[1:]))
        made = features(weights, normalise_pixels(padded, backbone.cfg.vision))[: len(pixels)]
        found.append(np.asarray(made).reshape(len(some), -1, made.shape[-1]))
        subject += [one.subject for one in some]
        is_drawing += [one.is_drawing for one in some]
    return Seen(jnp.asarray(np.concatenate(found)), np.array(subject), np.array(is_drawing))


def whiten(
    first: Float[Array, "X F"], view: Float[Array, "X F"], n: int, ridge: float = 0.3
) -> Float[Array, "F n"]:
    """Find the n directions in which pictures differ most, measured by how their views differ."""
    apart = view - first
    within = apart.T @ apart / len(apart)
    within += ridge * jnp.trace(within) / len(within) * jnp.eye(len(within))
    values, vectors = jnp.linalg.eigh(within)
    whitened = vectors / jnp.sqrt(values)
    seen = (first - first.mean(0)) @ whitened
    return whitened @ jnp.linalg.eigh(seen.T @ seen)[1][:, ::-1][:, :n]


def fit_image_map(cfg: EditorConfig, fit: DirectionsFitConfig, seen: Seen, seed: int) -> dict:
    """Fit the map of pictures so that a picture and its views have a higher cosine than others."""
    first, n = seen.features[:, 0], cfg.image_direction_n
    assert n is not None
    mean, spread = first.mean(0), first.std(0) + 1e-3 * first.std()
    features = (seen.features - mean) / spread
    kernel = whiten(features[:, 0], features[:, 1], n)
    params = {"kernel": kernel, "bias": jnp.zeros(n)} | IMAGE_SCORE
    kinds = [np.flatnonzero(kind) for kind in (seen.is_drawing, ~seen.is_drawing)]
    batches = [min(fit.image_batch_n // 2, len(kind)) for kind in kinds]
    subject = jnp.asarray(seen.subject)

    def loss(params: dict, key: Array) -> Float[Array, ""]:
        viewed, dropped, *drawn = jax.random.split(key, 4)
        choose = partial(jax.random.choice, replace=False)
        at = jnp.concatenate(
            [choose(key, some, (n,)) for key, some, n in zip(drawn, kinds, batches, strict=True)]
        )
        view = jax.random.randint(viewed, at.shape, 1, features.shape[1])
        kept = jax.random.bernoulli(dropped, 1 - fit.image_dropout, features.shape[2:])
        kept = kept / (1 - fit.image_dropout)
        return pair_loss(params, kept * features[at, 0], kept * features[at, view], subject[at])

    rate = optax.cosine_decay_schedule(fit.image_learning_rate, fit.image_steps_n)
    optimizer = optax.adamw(rate, weight_decay=fit.image_weight_decay)
    params, value = minimise(loss, params, optimizer, fit.image_steps_n, jax.random.key(seed))
    print(f"image keys fitted: loss {value:.3f}")
    kernel = params["kernel"] / spread[:, None]
    return {"kernel": kernel, "bias": params["bias"] - mean @ kernel}


def fit_image(cfg: EditorConfig, fit: DirectionsFitConfig, seen: Seen, seed: int) -> dict:
    """Fit the map of pictures and its threshold.

    A map knows the pictures that it was fitted to too well to be calibrated on them. So the
    threshold is the one of a map that is fitted without every fourth subject, on their drawings.
    Among n live edits, `fit.image_false_hits` pictures shall pass it: it grows with ln n.
    """
    held_out = seen.is_drawing & (seen.subject % CALIBRATED_EVERY == 0)
    apart = fit_image_map(cfg, fit, _some(seen, ~held_out), seed)
    unseen = _some(seen, held_out)
    found = directions.direction(apart, unseen.features[:, 0])
    wrong = np.asarray(found @ found.T)[unseen.subject[:, None] != unseen.subject]
    edits_n = np.array([FEWEST_EDITS, CALIBRATED_EDITS_N])
    low, high = np.quantile(wrong, 1 - fit.image_false_hits / edits_n)
    growth = (high - low) / np.log(edits_n[1] / edits_n[0])
    threshold = {"threshold": jnp.float32(low), "growth": jnp.float32(growth)}
    return fit_image_map(cfg, fit, seen, seed) | threshold


def _some(seen: Seen, chosen: Bool[np.ndarray, " X"]) -> Seen:
    return Seen(seen.features[chosen], seen.subject[chosen], seen.is_drawing[chosen])


def minimise(
    loss: Callable[[dict, Array], Array],
    params: dict,
    optimizer: optax.GradientTransformation,
    steps_n: int,
    key: Array,
) -> tuple[dict, float]:
    """Minimise a loss of random draws; returns the mean loss of the last tenth of steps, too."""

    @jax.jit
    def run(params: dict, keys: Array) -> tuple[dict, Array]:
        def step(carry, key):
            params, moments = carry
            value, grads = jax.value_and_grad(loss)(params, key)
            updates, moments = optimizer.update(grads, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params, values[-len(keys) // 10 :].mean()

    params, value = run(params, jax.random.split(key, steps_n))
    return params, float(value)


def pair_loss(
    params: dict, first: Float[Array, "B X"], second: Float[Array, "B X"], question: Array
) -> Float[Array, ""]:
    """Compute the sigmoid loss of B pairs; pairs that differ in `question` are negatives."""
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

    params, value = minimise(loss, params, optimizer, fit.steps_n, keys[1])
    print(f"text keys fitted: loss {value:.3f}")
    unit = directions.direction(params, features)
    cosine = np.asarray(jnp.einsum("gnw,gmw->gnm", unit[:, :, 0], unit[:, :, 1]))
    question = np.asarray(asked.question)
    wrong = cosine[question[:, :, None] != question[:, None]]
    offset = fit.text_slope * np.quantile(wrong, 1 - fit.text_false_share)
    kernel = params["kernel"] / spread[:, None]
    score = {"slope": jnp.float32(fit.text_slope), "offset": jnp.float32(offset)}
    return params | score | {"kernel": kernel, "bias": params["bias"] - mean @ kernel}
