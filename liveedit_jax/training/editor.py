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
from liveedit_jax.data.tokenise import answer_labels, without_pixels
from liveedit_jax.editor import losses, objective
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.training.optimizers import TrainState, advance, begin, editor_optimizer
from liveedit_jax.types import Batch, Role

# Of the pictures of a sample: the edit shows the first, its generalities the first and second.
PICTURES = (0, 0, 1, 2)


@partial(jax.jit, static_argnums=(0, 1, 2))
def init_state(
    backbone: Backbone, cfg: EditorConfig, recipe: EditorTrainConfig, key: Array
) -> TrainState:
    """Fresh weights and optimiser state."""
    params = init_params(key, cfg, backbone.cfg.width, backbone.cfg.vision_n)
    return begin(editor_optimizer(recipe), params)


def answer_samples(
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    backbone: Backbone,
    hidden: Float[Array, "S T D"],
    rows: Batch,
) -> objective.Samples:
    """Samples whose logits are read at A answer positions alone (`answers_n`, or T - P - 1)."""
    t = hidden.shape[1]
    first = (rows.role == Role.ANSWER).argmax(-1) - 1  # the last prompt token
    positions_n = recipe.answers_n or t - backbone.cfg.vision_n - 1
    at = jnp.minimum(first[:, None] + jnp.arange(positions_n), t - 1)
    label, answer, eos = answer_labels(rows, backbone.cfg.eos_id)
    mask = losses.generation_mask(cfg, answer, eos)
    pick = partial(jnp.take_along_axis, indices=at, axis=1)
    # a clipped position would count the last one again
    inside = first[:, None] + jnp.arange(at.shape[1]) < t
    return objective.Samples(hidden, rows, pick(label), pick(mask) & inside, at)


def rows_of(batch: EditingBatch) -> Batch:
    """The rows of a batch, sample by sample; their pictures are given as vision features."""

    def flat(leaf: Int[Array, "4 N T"]) -> Int[Array, "4N T"]:
        return rearrange(leaf, "k n t -> (n k) t")

    rows = without_pixels(flat(batch.token), flat(batch.role))
    return rows if batch.place is None else rows.replace(place=flat(batch.place))


def blend_images(
    key: Array, hidden: Float[Array, "N K T D"], role: Int[Array, "N K T"], most: float
) -> Float[Array, "N K T D"]:
    """Images of subjects that do not exist, so that routing does not learn subjects by heart.

    Every sample gets up to `most` (uniform) of another sample's states at VISION positions, the
    same share in all its K rows. Images lie at the same positions of all rows.
    """
    other_key, share_key = jax.random.split(key)
    n = hidden.shape[0]
    share = jax.random.uniform(share_key, (n, 1, 1, 1), maxval=most)
    blend = (1 - share) * hidden + share * hidden[jax.random.permutation(other_key, n)]
    return jnp.where((role == Role.VISION)[..., None], blend, hidden)


def editor_loss(
    backbone: Backbone,
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    weights: dict,
    params: dict,
    batch: EditingBatch,
    features: Float[Array, "4N P D"],
    key: Array,
) -> tuple[Float[Array, ""], dict]:
    """The loss of a batch of N samples (the first B in the edit terms) and its terms as scalars.

    Rows go sample by sample, so that a batch that is split over devices stays where it is;
    `features` are in that order.
    """
    b, n = recipe.batch_n, batch.token.shape[1]
    rows = rows_of(batch)
    hidden = backbone.lower_from_features(weights, rows, features)
    hidden = jax.lax.stop_gradient(hidden)

    def by_sample(leaf: Array) -> Array:
        return leaf.reshape(n, -1, *leaf.shape[1:])

    every = jax.tree.map(by_sample, answer_samples(cfg, recipe, backbone, hidden, rows))
    edit, text, image, locality = (
        jax.tree.map(lambda leaf, k=k: leaf[:b, k], every) for k in range(4)
    )
    answer = locality.label != backbone.cfg.eos_id  # EOS is no part of what locality compares
    locality = locality._replace(mask=locality.mask & answer)
    mask_key, pair_key, blend_key = jax.random.split(key, 3)
    hidden, role = by_sample(hidden), by_sample(rows.role)
    if recipe.routing_blend:
        hidden = blend_images(blend_key, hidden, role, recipe.routing_blend)
    own = jnp.arange(b)
    value, (edits, routing, seen) = objective.training_loss(
        cfg,
        recipe,
        backbone,
        weights,
        params,
        objective.Requests(edit.hidden, edit.batch.role),
        edit,
        (text, image),
        locality,
        objective.Pool(hidden, role, batch.picture.T // 2),
        objective.draw_masks(mask_key, own, own),
        objective.draw_pairs(pair_key, n, 4),
    )
    label = jnp.stack([group.label for group in (edit, text, image)], axis=1)
    mask = jnp.stack([group.mask for group in (edit, text, image)], axis=1)
    counted = mask & (label != backbone.cfg.eos_id)
    right = (seen["logits"][:, :3].argmax(-1) == label) & counted
    accuracy = (right.sum(-1) / jnp.maximum(counted.sum(-1), 1)).mean(0)
    scalars = {
        "loss": value,
        "reliability": edits["reliability"],
        "text_generality": edits["generality"][0],
        "image_generality": edits["generality"][1],
        "image_locality": edits["locality"],
        **routing,
        "accuracy/reliability": accuracy[0],
        "accuracy/text_generality": accuracy[1],
        "accuracy/image_generality": accuracy[2],
    }
    return value, scalars


def editor_gradient(
    backbone: Backbone,
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    weights: dict,
    features: Float[Array, "4N P D"],
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
        return editor_loss(backbone, cfg, recipe, weights, params, batch, features, key)

    return jax.grad(loss, has_aux=True)(state.params)


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
        features = pictures[rows.picture.T.reshape(-1)]
        return editor_gradient(backbone, cfg, recipe, weights, features, state, rows, part)

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
        features = backbone.vision_features(weights, rearrange(pixels, "n x ... -> (n x) ..."))
        features = rearrange(features, "(n x) p d -> n x p d", x=3)[:, jnp.array(PICTURES)]
        features = rearrange(features, "n k p d -> (n k) p d")
        return editor_gradient(backbone, cfg, recipe, weights, features, state, rows, part)

    return _advance(recipe, state, gradient, (images, batch))


def picture_features(
    backbone: Backbone, weights: dict, pictures: Float[Array, "X S S 3"], batch_n: int = 100
) -> Float[Array, "X P D"]:
    """Vision features of many pictures, in batches."""
    run = jax.jit(backbone.vision_features)
    parts = [run(weights, pictures[i : i + batch_n]) for i in range(0, len(pictures), batch_n)]
    return jnp.concatenate(parts)
