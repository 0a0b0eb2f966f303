"""The loss of a batch of editing samples, from the frozen model's states at the edit layer."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig, EditorTrainConfig
from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.data.tokenise import answer_labels, without_pixels
from liveedit_jax.editor import losses, objective
from liveedit_jax.editor.liveedit import prompt_words
from liveedit_jax.types import AnyArray, Batch, Role


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

    def flat(leaf: Int[AnyArray, "4 N T"]) -> Int[AnyArray, "4N T"]:
        return rearrange(leaf, "k n t -> (n k) t")

    rows = without_pixels(flat(batch.token), flat(batch.role))
    return rows if batch.place is None else rows.replace(place=flat(batch.place))


def blend_images(
    key: Array, hidden: Float[Array, "N K T D"], role: Int[AnyArray, "N K T"], most: float
) -> Float[Array, "N K T D"]:
    """Images of subjects that do not exist, so that routing does not learn subjects by heart.

    Every sample gets up to `most` (uniform) of another sample's states at VISION positions, the
    same share in all its K rows. Images begin at the same position of all rows; where one has more
    tokens (in tiles), these stay.
    """
    other_key, share_key = jax.random.split(key)
    n = hidden.shape[0]
    share = jax.random.uniform(share_key, (n, 1, 1, 1), maxval=most)
    other = jax.random.permutation(other_key, n)
    blend = (1 - share) * hidden + share * hidden[other]
    is_vision = jnp.asarray(role) == Role.VISION
    return jnp.where((is_vision & is_vision[other])[..., None], blend, hidden)


def editor_loss(
    backbone: Backbone,
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    weights: dict,
    params: dict,
    batch: EditingBatch,
    hidden: Float[Array, "4N T D"],
    key: Array,
) -> tuple[Float[Array, ""], dict]:
    """The loss of a batch of N samples (the first B in the edit terms) and its terms as scalars.

    Rows go sample by sample, so that a batch that is split over devices stays where it is;
    `hidden`, their states at the edit layer, are in that order, and no gradient flows below them.
    """
    b, n = recipe.batch_n, batch.token.shape[1]
    rows, hidden = rows_of(batch), jax.lax.stop_gradient(hidden)

    def by_sample(leaf: AnyArray) -> Array:
        return jnp.reshape(leaf, (n, -1, *leaf.shape[1:]))

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
        objective.Requests(
            edit.hidden, edit.batch.role, prompt_words(cfg, backbone, weights, edit.batch)
        ),
        edit,
        (text, image),
        locality,
        objective.Pool(hidden, role, batch.subjects.T),
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
