"""Training of a bridge alone, between a frozen tower and a frozen decoder (LLaVA's first stage).

The tower's states of all drawings are computed once; a step runs the bridge and the decoder, and
differentiates through the decoder to the bridge's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.registry import apply_module, bridge, tower
from liveedit_jax.config import BridgeTrainConfig
from liveedit_jax.data.facts import SOURCES, entities, pretraining_drawings
from liveedit_jax.data.images import drawing, normalise_pixels
from liveedit_jax.data.packing import collate_rows
from liveedit_jax.data.pretraining import PretrainingData
from liveedit_jax.data.tokenise import answer_labels, first_true, without_pixels
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.training.optimizers import TrainState, advance, begin
from liveedit_jax.training.pretrain import contrastive_loss, picture_rows, pooled_vision
from liveedit_jax.types import AnyArray, Batch


class BridgeBatch(flax.struct.PyTreeNode):
    """One step: packed rows, which drawing each shows, and drawings that are only contrasted."""

    rows: Batch
    picture: Int[AnyArray, " B"]  # rows of the stored tower states
    pairs: Int[AnyArray, " 2X"]  # one drawing of X entities, then the other
    at: Int[AnyArray, "B A"]  # positions that predict answer tokens or EOS
    label: Int[AnyArray, "B A"]
    mask: Bool[AnyArray, "B A"]


def optimizer(cfg: BridgeTrainConfig) -> optax.GradientTransformation:
    """Adam with warm-up and a cosine to zero."""
    rate = optax.warmup_cosine_decay_schedule(0.0, cfg.learning_rate, cfg.warmup_steps, cfg.steps_n)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def init_state(backbone: Backbone, cfg: BridgeTrainConfig, key: Array) -> TrainState:
    """A fresh bridge."""
    vision: Any = backbone.cfg.vision  # of a tower that says how wide its states are
    params = bridge(backbone.cfg).init(key, jnp.zeros((1, 1, vision.width)))["params"]
    return begin(optimizer(cfg), params)


def tower_states(
    backbone: Backbone, frozen: dict, batch_n: int = 16
) -> Float[np.ndarray, "drawings P W"]:
    """float16 states of every drawing: entity i in drawing s is row 2 i + s."""
    cfg = backbone.cfg
    run = jax.jit(lambda x: apply_module(tower(cfg), frozen["vision"], x).astype(jnp.float16))
    todo = [(entity.id, source) for entity in entities() for source in SOURCES]
    found = []
    for start in tqdm(range(0, len(todo), batch_n), desc="tower", unit="batch", mininterval=5):
        some = todo[start : start + batch_n]
        some += [some[0]] * (batch_n - len(some))
        pictures = np.stack([drawing(i, source, cfg.vision.image_size) for i, source in some])
        found.append(np.asarray(run(normalise_pixels(pictures, cfg.vision))))
    return np.concatenate(found)[: len(todo)]


@dataclass(frozen=True)
class BridgeData:
    """Batches as a function of the step."""

    tokenizer: Tokenizer
    backbone: Backbone
    cfg: BridgeTrainConfig

    @cached_property
    def _rows(self) -> PretrainingData:
        cfg = self.cfg
        return PretrainingData(self.tokenizer, self.backbone.cfg, cfg.data, cfg.length_n)

    def batch_at(self, step: int) -> BridgeBatch:
        """The batch of one step."""
        rows, chosen, _ = self._rows.image_rows(step)
        arrays = collate_rows(rows)
        batch = without_pixels(arrays["token"], arrays["role"])
        batch = batch.replace(position=arrays["position"], segment=arrays["segment"])
        label, answer, eos = map(np.asarray, answer_labels(batch, self.backbone.cfg.eos_id))
        mask = answer | eos
        at = first_true(mask, self.cfg.answers_n)
        return BridgeBatch(
            batch,
            self._pictures(chosen),
            self._pictures(self._rows.contrast_entities(step)),
            at,
            np.take_along_axis(label, at, 1),
            np.take_along_axis(mask, at, 1),
        )

    @staticmethod
    def _pictures(chosen: Sequence) -> Int[np.ndarray, " B"]:
        return np.array(
            [2 * i + SOURCES.index(source) for i, source in pretraining_drawings(chosen)], np.int32
        )


def bridge_loss(
    backbone: Backbone,
    cfg: BridgeTrainConfig,
    frozen: dict,
    states: Float[Array, "drawings P W"],
    params: dict,
    batch: BridgeBatch,
) -> tuple[Float[Array, ""], dict]:
    """Cross-entropy of answers and their EOS, and contrast between an entity's two drawings.

    Hard routing compares images by products, not cosines: drawings whose states point less alike
    from token to token have short means, and would be hit more rarely. So the contrast is by
    products too, and lengths are evened out.
    """
    weights = frozen | {"projector": params}
    images_n, pairs_n = batch.picture.shape[0], batch.pairs.shape[0]
    read = states[jnp.concatenate([batch.picture, batch.pairs])].astype(jnp.float32)
    features = apply_module(bridge(backbone.cfg), params, read)
    hidden = backbone.lower_from_features(weights, batch.rows, features[:images_n])
    logits = backbone.upper(weights, hidden, batch.rows, batch.at)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
    count = jnp.maximum(batch.mask.sum(), 1)
    answers = jnp.sum(loss * batch.mask) / count
    only = picture_rows(backbone, pairs_n)
    alone = backbone.lower_from_features(weights, only, features[images_n:])
    seen = pooled_vision(alone, only.role) * backbone.cfg.width**-0.5  # at most of length 1
    contrast, matched = contrastive_loss(seen, cfg.contrastive_temperature)
    length = jnp.sum(seen**2, -1) / cfg.contrastive_temperature
    uneven = 0.5 * jnp.var(length)
    total = answers + cfg.contrastive_weight * contrast + cfg.length_weight * uneven
    right = (logits.argmax(-1) == batch.label) & batch.mask
    return total, {
        "loss": total,
        "answers": answers,
        "contrastive": contrast,
        "matched": matched,
        "uneven": uneven,
        "accuracy": right.sum() / count,
    }


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def bridge_step(
    backbone: Backbone,
    cfg: BridgeTrainConfig,
    frozen: dict,
    states: Float[Array, "drawings P W"],
    state: TrainState,
    batch: BridgeBatch,
) -> tuple[TrainState, dict]:
    """One optimiser step of the bridge."""
    grads, scalars = jax.grad(
        lambda params: bridge_loss(backbone, cfg, frozen, states, params, batch), has_aux=True
    )(state.params)
    return advance(optimizer(cfg), state, grads), scalars
