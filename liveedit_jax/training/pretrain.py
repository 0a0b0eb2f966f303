"""Pretraining of a small VLLM from scratch: packed answers, two drawings aligned."""

from __future__ import annotations

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import PretrainConfig
from liveedit_jax.data.tokenise import answer_labels
from liveedit_jax.training.optimizers import pretrain_optimizer
from liveedit_jax.types import Batch, Role


@flax.struct.dataclass
class PretrainState:
    """Weights, optimiser state and step."""

    params: dict
    optimizer: optax.OptState
    step: Int[Array, ""]


def init_state(backbone: Backbone, cfg: PretrainConfig, key: Array) -> PretrainState:
    """Fresh weights and optimiser state."""
    params = backbone.init(key)
    return PretrainState(params, pretrain_optimizer(cfg).init(params), jnp.zeros((), jnp.int32))


def contrastive_loss(
    feature: Float[Array, "B D"], temperature: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Symmetric InfoNCE between the two drawings of B/2 entities.

    Args:
        feature: rows 0..B/2-1 are one drawing of each entity, rows B/2..B-1 the other drawing.
        temperature: the softmax temperature.

    Returns:
        The loss and the share of drawings whose nearest neighbour is the other drawing.
    """
    unit = feature / (jnp.linalg.norm(feature, axis=-1, keepdims=True) + 1e-6)
    first, second = jnp.split(unit, 2)
    scores = first @ second.T / temperature  # f32[B/2, B/2]
    label = jnp.arange(scores.shape[0])
    loss = optax.softmax_cross_entropy_with_integer_labels
    both = 0.5 * (loss(scores, label).mean() + loss(scores.T, label).mean())
    return both, (scores.argmax(-1) == label).mean()


def pretrain_loss(
    backbone: Backbone, cfg: PretrainConfig, params: dict, batch: Batch
) -> tuple[Float[Array, ""], dict]:
    """Cross-entropy on answers and their EOS, plus the contrastive term at the edit layer.

    The first `batch.image.shape[0]` rows have an image (two drawings of each entity, halves in the
    same order), the rows after them are text only.
    """
    images_n = batch.image.shape[0]
    features = backbone.vision_features(params, batch.image)  # f32[images, P, D]
    text_n = batch.token.shape[0] - images_n
    features = jnp.pad(features, ((0, text_n), (0, 0), (0, 0)))
    hidden = backbone.lower_from_features(params, batch, features)  # f32[B, T, D]
    logits = backbone.upper(params, hidden, batch)  # f32[B, T, V]

    label, answer_mask, eos_mask = answer_labels(batch, backbone.cfg.eos_id)
    mask = answer_mask | eos_mask
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    answers = jnp.sum(nll * mask) / jnp.maximum(mask.sum(), 1)

    vision = (batch.role[:images_n] == Role.VISION)[..., None]
    normed = hidden[:images_n] / jnp.sqrt(
        jnp.mean(hidden[:images_n] ** 2, axis=-1, keepdims=True) + 1e-6
    )
    pooled = jnp.sum(normed * vision, 1) / jnp.maximum(vision.sum(1), 1)
    contrast, matched = contrastive_loss(pooled, cfg.contrastive_temperature)

    right = (logits.argmax(-1) == label) & answer_mask
    loss = answers + cfg.contrastive_weight * contrast
    scalars = {
        "loss": loss,
        "answers": answers,
        "contrastive": contrast,
        "matched": matched,
        "accuracy": right.sum() / jnp.maximum(answer_mask.sum(), 1),
    }
    return loss, scalars


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def pretrain_step(
    backbone: Backbone, cfg: PretrainConfig, state: PretrainState, batch: Batch
) -> tuple[PretrainState, dict]:
    """One optimiser step."""
    grads, scalars = jax.grad(
        lambda params: pretrain_loss(backbone, cfg, params, batch), has_aux=True
    )(state.params)
    updates, optimizer = pretrain_optimizer(cfg).update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return PretrainState(params, optimizer, state.step + 1), scalars
