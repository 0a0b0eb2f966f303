"""The editor's training step: lower states under stop-gradient, one pass of `upper`, Adam."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.placement import weights_at
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
        params = weights_at(place, params)
        return editor_loss(backbone, cfg, recipe, weights, params, batch, hidden, key)

    return jax.grad(loss, has_aux=True)(state.params)


def states_of_batch(
    backbone: Backbone, weights: dict, pictures: Float[Array, "X P D"], batch: EditingBatch
) -> Float[Array, "4N T D"]:
    """States at the edit layer of a batch's rows; `pictures` as in `editor_step`."""
    features = pictures[batch.picture.T.reshape(-1)]
    return backbone.lower_from_features(weights, rows_of(batch), features)


def states_from_images(
    backbone: Backbone, weights: dict, images: Float[Array, "N 3 ..."], batch: EditingBatch
) -> Float[Array, "4N T D"]:
    """The same from pixels; `images` as in `step_from_images`."""
    features = backbone.vision_features(weights, rearrange(images, "n x ... -> (n x) ..."))
    features = rearrange(features, "(n x) p d -> n x p d", x=3)[:, jnp.array(PICTURES)]
    features = rearrange(features, "n k p d -> (n k) p d")
    return backbone.lower_from_features(weights, rows_of(batch), features)


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


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=5)
def editor_step(
    backbone: Backbone,
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    weights: dict,
    pictures: Float[Array, "X P D"],
    state: TrainState,
    batch: EditingBatch,
) -> tuple[TrainState, dict]:
    """One optimiser step; `pictures` are the vision features that `batch.picture` names.

    With `accumulate_n` > 1, every leaf of `batch` is stacked: [accumulate_n, ...].
    """

    def gradient(rows: EditingBatch, part) -> tuple[dict, dict]:
        hidden = states_of_batch(backbone, weights, pictures, rows)
        return editor_gradient(backbone, cfg, recipe, weights, hidden, state, rows, part)

    return _advance(recipe, state, gradient, batch)


def step_from_images(
    backbone: Backbone,
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    weights: dict,
    images: Float[Array, "N 3 ..."],
    state: TrainState,
    batch: EditingBatch,
) -> tuple[TrainState, dict]:
    """The same from pixels: of every sample the edited picture, the other drawing, the probe's.

    What large backbones need, whose features of all pictures do not fit in memory. `images` are
    stacked like `batch`.
    """

    def gradient(shown: tuple[Array, EditingBatch], part) -> tuple[dict, dict]:
        pixels, rows = shown
        hidden = states_from_images(backbone, weights, pixels, rows)
        return editor_gradient(backbone, cfg, recipe, weights, hidden, state, rows, part)

    return _advance(recipe, state, gradient, (images, batch))


def step_from_states(
    backbone: Backbone,
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    weights: dict,
    hidden: Float[Array, "4N T D"],
    state: TrainState,
    batch: EditingBatch,
) -> tuple[TrainState, dict]:
    """The same from states at the edit layer, which are stacked like `batch`."""

    def gradient(known: tuple[Array, EditingBatch], part) -> tuple[dict, dict]:
        states, rows = known
        return editor_gradient(backbone, cfg, recipe, weights, states, state, rows, part)

    return _advance(recipe, state, gradient, (hidden, batch))


editor_step_from_states = jax.jit(
    step_from_states, static_argnums=(0, 1, 2), donate_argnums=5
)  # on one device


@partial(jax.jit, static_argnums=(0, 1))
def states_of_step(
    backbone: Backbone,
    recipe: EditorTrainConfig,
    weights: dict,
    pictures: Float[Array, "X P D"],
    batch: EditingBatch,
) -> Float[Array, "4N T D"]:
    """What `editor_step_from_states` reads, stacked like `batch`."""
    return every_batch(recipe, partial(states_of_batch, backbone, weights, pictures), (batch,))


def every_batch(recipe: EditorTrainConfig, run: Callable[..., Array], batches) -> Array:
    """`run` of a step's batch, or of each of its several, stacked."""
    if recipe.accumulate_n == 1:
        return run(*batches)
    return jax.lax.map(lambda batch: run(*batch), batches)


def picture_features(
    backbone: Backbone, weights: dict, pictures: Float[Array, "X S S 3"], batch_n: int = 100
) -> Float[Array, "X P D"]:
    """Vision features of many pictures, in batches."""
    run = jax.jit(backbone.vision_features)
    parts = [run(weights, pictures[i : i + batch_n]) for i in range(0, len(pictures), batch_n)]
    return jnp.concatenate(parts)
