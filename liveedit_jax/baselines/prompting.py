"""Memory-based prompting: editors that store edits and insert a fitting one into the prompt.

    request  ─ key, what to insert ─► row `used_n` of the memory
    question ─ key ─ nearest row ─ longer prompt ─► logits

Keys are made from the unedited model's states of image and text at the edit layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.baselines.trained import Lesson, LessonRows
from liveedit_jax.data.tokenise import answer_labels
from liveedit_jax.editor.attention import normalise
from liveedit_jax.editor.losses import locality_kl
from liveedit_jax.editor.rows import dot
from liveedit_jax.types import AnyArray, Batch, Role


def mean_max_min(x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B 3*D"]:
    """Pool the masked tokens by mean, maximum and minimum; zeros where no token is masked in."""
    mask = mask[..., None]
    some = mask.any(1)
    mean = jnp.where(mask, x, 0).sum(1) / jnp.maximum(mask.sum(1), 1)
    most = jnp.where(mask, x, -jnp.inf).max(1)
    least = jnp.where(mask, x, jnp.inf).min(1)
    return jnp.where(some, jnp.concatenate([mean, most, least], -1), 0)


def pool_states(
    states: Float[Array, "B T D"], role: Int[AnyArray, "B T"], parts: Sequence[Role]
) -> Float[Array, "B F"]:
    """Pool normalised states, part after part: F = len(parts) * 3 * D."""
    x = normalise(states, 1e-6)
    return jnp.concatenate([mean_max_min(x, role == part) for part in parts], -1)


def append_row(memory: dict[str, Array], **row: Array) -> dict[str, Array]:
    """Append one row to a memory; a full memory stays as it is."""
    n = memory["used_n"]
    written = {name: memory[name].at[n].set(leaf[0], mode="drop") for name, leaf in row.items()}
    return written | {"used_n": n + 1}


def nearest_rows(
    memory: dict[str, Array], query: Float[Array, "B W"], k: int
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Return the K largest products of queries with stored keys, and their rows.

    K is `k`, or the memory's capacity if smaller; products with unused rows are -inf.
    """
    score = dot(memory["key"], query)
    used = jnp.arange(score.shape[1]) < memory["used_n"]
    return jax.lax.top_k(jnp.where(used, score, -jnp.inf), min(k, score.shape[1]))


def insert_tokens(
    batch: Batch,
    token: Int[Array, "B L"],
    role: Int[AnyArray, "B L"],
    at: Int[Array, "B A"] | None = None,
) -> tuple[Batch, Int[Array, "B A"]]:
    """Insert tokens between the image (or BOS) and the question; rows get the length T + L.

    Args:
        batch: rows of one segment each.
        token: the tokens to insert.
        role: their roles; PAD is moved to the row's end.
        at: positions in the old rows (None: all).

    Returns:
        The longer rows, and the positions `at` in them.
    """
    pad, t = Role.PAD, batch.token.shape[1]
    old = jnp.where(batch.role == pad, 3, jnp.where(batch.role <= Role.VISION, 0, 2))
    rank = jnp.concatenate([old, jnp.where(role == pad, 3, 1)], axis=1)
    order = jnp.argsort(rank, axis=1, stable=True)

    def merged(leaf: AnyArray, more: AnyArray) -> Array:
        both = jnp.concatenate([leaf, more.astype(leaf.dtype)], axis=1)
        return jnp.take_along_axis(both, order, axis=1)

    place = batch.place
    longer = Batch(
        merged(batch.token, token),
        merged(batch.role, role),
        batch.image,
        place=None if place is None else merged(place, jnp.zeros_like(token)),
    )
    moved = jnp.argsort(order, axis=1)[:, :t]
    return longer, moved if at is None else jnp.take_along_axis(moved, at, axis=1)


def concat_rows(asked: Sequence[LessonRows]) -> LessonRows:
    """Concatenate the rows of several kinds, kind after kind."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *asked)


def round_robin(kinds: Sequence[LessonRows]) -> LessonRows:
    """Take one row a sample: sample i's row of kind i modulo the number of kinds."""
    n = len(kinds[0].seen)
    place = jnp.arange(n) % len(kinds), jnp.arange(n)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[place], *kinds)


def mix_pictures(key: Array, lesson: Lesson, most: float) -> Lesson:
    """Mix every sample's pictures with another sample's, whose share is uniform in [0, `most`).

    Without this, retrieval memorises the training subjects and cannot tell those of later edits
    apart.
    """
    order_key, share_key = jax.random.split(key)
    n = len(lesson.edit.seen)
    order = jax.random.permutation(order_key, n)
    share = jax.random.uniform(share_key, (n, 1, 1), maxval=most)

    def mixed(seen: Array) -> Array:
        return (1 - share) * seen + share * jnp.take(seen, order, axis=0)

    return Lesson(*(asked._replace(seen=mixed(asked.seen)) for asked in lesson))


def unedited_logits(backbone: Backbone, weights: dict, asked: LessonRows) -> Float[Array, "N T V"]:
    """Compute the frozen model's logits."""
    hidden = backbone.lower_from_features(weights, asked.batch, asked.seen)
    return backbone.upper(weights, hidden, asked.batch)


def locality_loss(
    backbone: Backbone,
    edited: Float[Array, "B T V"],
    original: Float[Array, "B T V"],
    batch: Batch,
) -> Float[Array, ""]:
    """Compute KL(unedited || edited) on the answers of unedited questions."""
    _, answer, eos = answer_labels(batch, backbone.cfg.eos_id)
    return locality_kl(edited, original, answer | eos, "original_to_edited")
