"""The editor's training step: lower states under stop-gradient, one pass of `upper`, Adam."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.placement import place_weights
from liveedit_jax.config import EditorConfig, EditorTrainConfig
from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.training.editor_loss import editor_loss, rows_of
from liveedit_jax.training.optimizers import TrainState, advance, begin, editor_optimizer

# Of the pictures of a sample: the edit shows the first, its generalities the first and second.
PICTURES = (0, 0, 1, 2)


@partial(jax.jit, static_argnums=(0, 1, 2))
def init_state(
    backbone: Backbone, cfg: EditorConfig, recipe: EditorTrainConfig, key: Array
) -> TrainState:
    """Fresh weights and optimiser state."""
    params = init_params(key, cfg, backbone.cfg.width, backbone.cfg.vision_n)
    return begin(editor_optimizer(recipe), params)


def editor_gradient(
    backbone: Backbone,
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    weights: dict,
    hidden: Float[Array, "4N T D"],
    state: TrainState,
    batch: EditingBatch,
    part: int | Int[Array, ""] = 0,
) -> tuple[dict, dict]:
    """The gradient of one batch and its scalars; `part` counts the batches of a step."""
    key = jax.random.key(recipe.seed + 1)
    key = jax.random.fold_in(key, state.step * recipe.accumulate_n + part)
    place = backbone.placement("editor")

    def loss(params: dict):
        params = place_weights(place, params)
        return editor_loss(backbone, cfg, recipe, weights, params, batch, hidden, key)

    return jax.grad(loss, has_aux=True)(state.params)


def lower_from_features(
    backbone: Backbone, weights: dict, features: Float[Array, "4N P D"], batch: EditingBatch
) -> Float[Array, "4N T D"]:
    """Compute a batch's states at the edit layer from the vision features of its rows."""
    return backbone.lower_from_features(weights, rows_of(batch), features)


def lower_from_images(
    backbone: Backbone, weights: dict, images: Float[Array, "N 3 ..."], batch: EditingBatch
) -> Float[Array, "4N T D"]:
    """Compute them from pixels: of every sample the edited picture, its other one, the probe's.

    Large backbones need this: the features of all their pictures do not fit in memory.
    """
    features = backbone.vision_features(weights, rearrange(images, "n x ... -> (n x) ..."))
    features = rearrange(features, "(n x) p d -> n x p d", x=3)[:, jnp.array(PICTURES)]
    features = rearrange(features, "n k p d -> (n k) p d")
    return backbone.lower_from_features(weights, rows_of(batch), features)


def stored_states(
    backbone: Backbone, weights: dict, hidden: Float[Array, "4N T D"], batch: EditingBatch
) -> Float[Array, "4N T D"]:
    """Return states that were computed before (training/states.py)."""
    return hidden


# How a step obtains its states at the edit layer: one of the three functions above.
Lower = Callable[[Backbone, dict, Array, EditingBatch], Array]


def row_features(
    pictures: Float[Array, "X P D"], batch: EditingBatch
) -> Float[Array, "*lead 4N P D"]:
    """Look up the vision features of a batch's rows, sample by sample (of each batch, if stacked).

    Args:
        pictures: vision features of every picture that `batch.picture` may name.
        batch: one batch, or several of a step, stacked.
    """
    index = np.moveaxis(np.asarray(batch.picture), -2, -1)
    return pictures[index.reshape(*index.shape[:-2], -1)]


def _advance(
    recipe: EditorTrainConfig,
    state: TrainState,
    gradient: Callable[..., tuple[dict, dict]],
    batches,
) -> tuple[TrainState, dict]:
    """One optimiser step along the mean gradient of a step's batches.

    Args:
        recipe: how many batches there are, and the optimiser.
        state: before the step.
        gradient: (what one batch consists of, which batch it is) -> its gradient and scalars.
        batches: what a batch consists of; several are stacked.
    """
    n = recipe.accumulate_n
    if n == 1:
        grads, scalars = gradient(batches, 0)
    else:

        def one(sums: dict, batch) -> tuple[dict, dict]:
            grads, scalars = gradient(*batch)
            return jax.tree.map(jnp.add, sums, grads), scalars

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        sums, every = jax.lax.scan(one, zeros, (batches, jnp.arange(n)))
        grads = jax.tree.map(lambda leaf: leaf / n, sums)
        scalars = jax.tree.map(jnp.mean, every)
    scalars["gradient_norm"] = optax.global_norm(grads)
    return advance(editor_optimizer(recipe), state, grads), scalars


def editor_step(
    backbone: Backbone,
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    lower: Lower,
    weights: dict,
    shown: Array,
    state: TrainState,
    batch: EditingBatch,
) -> tuple[TrainState, dict]:
    """Take one optimiser step.

    Args:
        backbone: the frozen model's functions.
        cfg: the editor.
        recipe: how it is trained.
        lower: how states at the edit layer are obtained from `shown`.
        weights: of the frozen model.
        shown: features, pixels or states of the rows, whatever `lower` reads.
        state: editor weights and moments before the step.
        batch: the rows. With `accumulate_n` > 1 its leaves and `shown` are stacked:
            [accumulate_n, ...].

    Returns:
        The state after the step, and the scalars of the loss.
    """

    def gradient(known: tuple[Array, EditingBatch], part) -> tuple[dict, dict]:
        seen, rows = known
        hidden = lower(backbone, weights, seen, rows)
        return editor_gradient(backbone, cfg, recipe, weights, hidden, state, rows, part)

    return _advance(recipe, state, gradient, (shown, batch))


# On one device; the weights and moments that go in are overwritten.
jitted_editor_step = jax.jit(editor_step, static_argnums=(0, 1, 2, 3), donate_argnums=6)


@partial(jax.jit, static_argnums=(0, 1, 2))
def lower_states(
    backbone: Backbone,
    recipe: EditorTrainConfig,
    lower: Lower,
    weights: dict,
    shown: Array,
    batch: EditingBatch,
) -> Float[Array, "*lead 4N T D"]:
    """Compute the states that a step reads by `stored_states`, stacked as its batches are."""
    if recipe.accumulate_n == 1:
        return lower(backbone, weights, shown, batch)
    return jax.lax.map(lambda known: lower(backbone, weights, *known), (shown, batch))


def picture_features(
    backbone: Backbone, weights: dict, pictures: Float[Array, "X S S 3"], batch_n: int = 100
) -> Float[Array, "X P D"]:
    """Vision features of many pictures, in batches."""
    run = jax.jit(backbone.vision_features)
    parts = [run(weights, pictures[i : i + batch_n]) for i in range(0, len(pictures), batch_n)]
    return jnp.concatenate(parts)
