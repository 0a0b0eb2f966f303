"""Pretraining of a small VLLM from scratch: packed answers, and terms on the edit layer."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import PretrainConfig
from liveedit_jax.data.pretraining import PretrainingBatch
from liveedit_jax.data.tokenise import answer_labels, without_pixels
from liveedit_jax.editor.attention import normalise
from liveedit_jax.training.optimizers import TrainState, advance, begin, pretrain_optimizer
from liveedit_jax.types import AnyArray, Batch, Role

INDEX_N = 46  # answer positions that the index term tells apart, 0 = the last prompt token


def init_state(
    backbone: Backbone, cfg: PretrainConfig, key: Array, params: dict | None = None
) -> TrainState:
    """Fresh weights (or a copy of `params`) and fresh optimiser state."""
    params = backbone.init(key) if params is None else jax.tree.map(jnp.copy, params)
    return begin(pretrain_optimizer(cfg), params)


def contrastive_loss(
    feature: Float[Array, "B D"], temperature: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Symmetric InfoNCE between the two drawings of B/2 entities, by the product of their features.

    Args:
        feature: rows 0..B/2-1 are one drawing of each entity, rows B/2..B-1 the other drawing.
        temperature: the softmax temperature.

    Returns:
        The loss and the share of drawings whose nearest neighbour is the other drawing.
    """
    first, second = jnp.split(feature, 2)
    scores = first @ second.T / temperature  # f32[B/2, B/2]
    label = jnp.arange(scores.shape[0])
    loss = optax.softmax_cross_entropy_with_integer_labels
    both = 0.5 * (loss(scores, label).mean() + loss(scores.T, label).mean())
    return both, (scores.argmax(-1) == label).mean()


def unit(feature: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Features at length 1."""
    return feature / (jnp.linalg.norm(feature, axis=-1, keepdims=True) + 1e-6)


def pooled_vision(hidden: Float[Array, "B T D"], role: Int[AnyArray, "B T"]) -> Float[Array, "B D"]:
    """The mean of the normalised VISION states of each row."""
    vision = (role == Role.VISION)[..., None]
    scale = jax.lax.rsqrt(jnp.mean(hidden**2, axis=-1, keepdims=True) + 1e-6)
    return jnp.sum(hidden * scale * vision, 1) / jnp.maximum(vision.sum(1), 1)


def answer_index(role: Int[AnyArray, "B T"]) -> Int[Array, "B T"]:
    """Number the positions of each answer from 1; 0 outside answers."""
    is_answer = role == Role.ANSWER
    count = jnp.cumsum(is_answer, axis=1)
    before = jax.lax.cummax(jnp.where(is_answer, 0, count), axis=1)
    return count - before


def picture_rows(backbone: Backbone, n: int) -> Batch:
    """`n` rows of BOS and an image, nothing else; the pictures are given as features."""
    length = 1 + backbone.cfg.vision_n
    token = jnp.full((n, length), backbone.cfg.bos_id, jnp.int32)
    role = jnp.full((n, length), Role.VISION, jnp.int8).at[:, 0].set(Role.PRE)
    return without_pixels(token, role)


def pretrain_loss(
    backbone: Backbone, cfg: PretrainConfig, params: dict, batch: PretrainingBatch
) -> tuple[Float[Array, ""], dict]:
    """Cross-entropy on answers and their EOS, plus four terms on the edit layer's output.

    The first `rows.image.shape[0]` rows have an image, the next ones a scene (two pictures, one
    after the other), the rest is text only. The terms on the edit layer's output: the two pictures
    of a contrasted entity look alike (InfoNCE); an answer state tells its token through the
    model's own head, the token before it through the same head after a fixed rotation, and its
    number within the answer along fixed directions. These three are learned on the strange rows:
    from an answer that it knows, the model tells the number without counting, and an edit's it
    does not.
    """
    rows, pairs_n = batch.rows, batch.pairs.shape[0]
    assert rows.image is not None
    singles = jnp.concatenate([rows.image, batch.pairs])
    features = backbone.vision_features(params, singles)
    images_n = rows.image.shape[0]
    images, alone = features[:images_n], features[images_n:]
    scenes = backbone.vision_features(params, batch.scenes)
    text_n = rows.token.shape[0] - len(images) - len(scenes)
    images_only = jnp.pad(images, ((0, 0), (0, scenes.shape[1] - images.shape[1]), (0, 0)))
    features = jnp.concatenate([images_only, scenes])
    features = jnp.pad(features, ((0, text_n), (0, 0), (0, 0)))
    hidden = backbone.lower_from_features(params, rows, features)  # f32[B, T, D]
    logits = backbone.upper(params, hidden, rows)  # f32[B, T, V]

    label, answer_mask, eos_mask = answer_labels(rows, backbone.cfg.eos_id)
    mask = answer_mask | eos_mask
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels

    def mean(value, chosen):
        return jnp.sum(value * chosen) / jnp.maximum(chosen.sum(), 1)

    answers = mean(cross_entropy(logits, label), mask)
    strange = batch.strange
    unseen = backbone.lower_from_features(params, strange, images[: len(strange.token)])
    is_answer = strange.role == Role.ANSWER
    with jax.ensure_compile_time_eval():  # constants: a step would compute them again
        turn, code = (jax.random.orthogonal(jax.random.key(i), hidden.shape[-1]) for i in range(2))
    before = jnp.roll(strange.token, 1, axis=1)  # the last prompt token comes before an answer
    token = mean(cross_entropy(backbone.head(params, unseen), strange.token), is_answer)
    previous = mean(cross_entropy(backbone.head(params, unseen @ turn), before), is_answer)
    number = jnp.minimum(answer_index(strange.role), INDEX_N - 1)
    counted = is_answer | answer_labels(strange, backbone.cfg.eos_id)[1]
    index = mean(cross_entropy(normalise(unseen, 1e-5) @ code[:, :INDEX_N], number), counted)

    only = picture_rows(backbone, pairs_n)
    seen = pooled_vision(backbone.lower_from_features(params, only, alone), only.role)
    contrast, matched = contrastive_loss(unit(seen), cfg.contrastive_temperature)

    right = (logits.argmax(-1) == label) & answer_mask
    loss = (
        answers
        + cfg.contrastive_weight * contrast
        + cfg.token_weight * token
        + cfg.previous_weight * previous
        + cfg.index_weight * index
    )
    scalars = {
        "loss": loss,
        "answers": answers,
        "contrastive": contrast,
        "matched": matched,
        "token": token,
        "previous": previous,
        "index": index,
        "accuracy": right.sum() / jnp.maximum(answer_mask.sum(), 1),
    }
    return loss, scalars


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def pretrain_step(
    backbone: Backbone, cfg: PretrainConfig, state: TrainState, batch: PretrainingBatch
) -> tuple[TrainState, dict]:
    """One optimiser step."""
    grads, scalars = jax.grad(
        lambda params: pretrain_loss(backbone, cfg, params, batch), has_aux=True
    )(state.params)
    return advance(pretrain_optimizer(cfg), state, grads), scalars
