"""The editor's training step: lower states under stop-gradient, one pass of `upper`, Adam."""

from __future__ import annotations

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
    cfg: EditorConfig, backbone: Backbone, hidden: Float[Array, "S T D"], rows: Batch
) -> objective.Samples:
    """Samples whose logits are read at the answer positions alone: A = T - P - 1 of them."""
    t = hidden.shape[1]
    first = (rows.role == Role.ANSWER).argmax(-1) - 1  # the last prompt token
    at = jnp.minimum(first[:, None] + jnp.arange(t - backbone.cfg.vision_n - 1), t - 1)
    label, answer, eos = answer_labels(rows, backbone.cfg.eos_id)
    mask = losses.generation_mask(cfg, answer, eos)
    pick = partial(jnp.take_along_axis, indices=at, axis=1)
    # a clipped position would count the last one again
    inside = first[:, None] + jnp.arange(at.shape[1]) < t
    return objective.Samples(hidden, rows, pick(label), pick(mask) & inside, at)


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
    rows = without_pixels(
        rearrange(batch.token, "k n t -> (n k) t"), rearrange(batch.role, "k n t -> (n k) t")
    )
    hidden = backbone.lower_from_features(weights, rows, features)
    hidden = jax.lax.stop_gradient(hidden)

    def by_sample(leaf: Array) -> Array:
        return leaf.reshape(n, -1, *leaf.shape[1:])

    every = jax.tree.map(by_sample, answer_samples(cfg, backbone, hidden, rows))
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
    part: int = 0,
) -> tuple[dict, dict]:
    """The gradient of one batch and its scalars; `part` counts the batches of a step."""
    key = jax.random.fold_in(jax.random.key(recipe.seed + 1), state.step)
    key = jax.random.fold_in(key, part) if part else key
    place = backbone.placement("editor")

    def loss(params: dict):
        params = weights_at(place, params)
        return editor_loss(backbone, cfg, recipe, weights, params, batch, features, key)

    return jax.grad(loss, has_aux=True)(state.params)


def advance_editor(
    recipe: EditorTrainConfig, state: TrainState, grads: dict, scalars: dict
) -> tuple[TrainState, dict]:
    """The optimiser's step, and the gradient's norm beside the other scalars."""
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
    """One optimiser step; `pictures` are the vision features that `batch.picture` names."""
    features = pictures[batch.picture.T.reshape(-1)]
    found = editor_gradient(backbone, cfg, recipe, weights, features, state, batch)
    return advance_editor(recipe, state, *found)


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

    What large backbones need, whose features of all pictures do not fit in memory.
    """
    features = backbone.vision_features(weights, rearrange(images, "n x ... -> (n x) ..."))
    features = rearrange(features, "(n x) p d -> n x p d", x=3)[:, jnp.array(PICTURES)]
    features = rearrange(features, "n k p d -> (n k) p d")
    found = editor_gradient(backbone, cfg, recipe, weights, features, state, batch)
    return advance_editor(recipe, state, *found)


def picture_features(
    backbone: Backbone, weights: dict, pictures: Float[Array, "X S S 3"], batch_n: int = 100
) -> Float[Array, "X P D"]:
    """Vision features of many pictures, in batches."""
    run = jax.jit(backbone.vision_features)
    parts = [run(weights, pictures[i : i + batch_n]) for i in range(0, len(pictures), batch_n)]
    return jnp.concatenate(parts)
