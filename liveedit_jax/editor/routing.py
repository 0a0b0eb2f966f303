"""Hard routing by what the image shows, soft routing by what the text asks (equations 5 to 7).

Two stages, both exact. Vision keys are all read, in one product; text keys only of the experts that
some query hits. The softmax runs over ALL hits, and bodies are read for the K strongest alone.

With a mesh axis `axis` these run inside a shard_map whose devices hold equal parts of the rows.
Every device scores its own; what crosses is a maximum, sums, and each device's K strongest.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import rows
from liveedit_jax.editor.attention import masked_softmax
from liveedit_jax.editor.repository import alive, first_row
from liveedit_jax.types import Axis, Margins, Query, Repository, Route, Rows

GATHERED = (64, 1024)  # text keys read one by one up to these numbers of hit rows; beyond, all


def unit(cfg: EditorConfig) -> float:
    """What a dot product of two keys is divided by to be their similarity: E * sqrt(M)."""
    return cfg.queries_n * cfg.module_width**0.5


def similarity(
    cfg: EditorConfig, a: Float[Array, "B H"], b: Float[Array, "C H"]
) -> Float[Array, "B C"]:
    """<a, b> over E and M, divided by E * sqrt(M)."""
    return a @ b.T / unit(cfg)


def soft_weights(score: Float[Array, "B C"], mask: Bool[Array, "B C"]) -> Float[Array, "B C"]:
    """softmax over the masked experts, times sigmoid; zeros where the mask is empty."""
    return masked_softmax(score, mask) * jax.nn.sigmoid(score)


def vision_scores(cfg: EditorConfig, repo: Repository, query: Query) -> Float[Array, "B C"]:
    """How much each row's image resembles the query's (rows that are not alive included)."""
    vision = rows.turned(query.vision, repo.vision_key)
    return rows.products(repo.vision_key, vision) / unit(cfg)


def hits(
    cfg: EditorConfig,
    repo: Repository,
    query: Query,
    at: Int[Array, ""] | None = None,
    vision: Float[Array, "B C"] | None = None,
) -> Bool[Array, "B C"]:
    """Hard routing: the experts whose image resembles the query's more than the sentinel does."""
    score = vision_scores(cfg, repo, query) if vision is None else vision
    return (score > query.threshold[:, None]) & alive(repo, at)


def margin(
    cfg: EditorConfig, repo: Repository, query: Query, at: Int[Array, ""] | None = None
) -> Float[Array, " B"]:
    """The best score over the sentinel's: something is hit where it is above 0 (-inf: no rows)."""
    score = jnp.where(alive(repo, at), vision_scores(cfg, repo, query), -jnp.inf)
    return score.max(-1) - query.threshold


def margins(
    cfg: EditorConfig,
    repo: Repository,
    query: Query,
    slot: Int[Array, "B K"],
    vision: Float[Array, "B C"],
) -> Margins:
    """Score the experts in `slot` for each query; `vision` is `vision_scores`."""
    image = jnp.take_along_axis(vision, slot, axis=1) - query.threshold[:, None]
    key, text = rows.take(repo.text_key, slot), rows.turned(query.text, repo.text_key)
    score = jnp.einsum("bkh,bh->bk", key, text, precision=jax.lax.Precision.HIGHEST)
    image = jnp.where(alive(repo)[slot], image, -jnp.inf)
    return Margins(slot=slot, image=image, text=score / unit(cfg))


def nearest(
    cfg: EditorConfig, repo: Repository, query: Query, n: int, vision: Float[Array, "B C"]
) -> Margins:
    """Find the `n` live experts whose images resemble each query's most, the nearest first."""
    slot = jax.lax.top_k(jnp.where(alive(repo), vision, -jnp.inf), min(n, vision.shape[1]))[1]
    return margins(cfg, repo, query, slot, vision)


def products_of_hits(
    keys: Rows, x: Float[Array, "B H"], hit: Bool[Array, "B C"]
) -> Float[Array, "B C"]:
    """x against the rows that any of the B queries hits; zeros for all others."""
    needed, c, x = hit.any(0), hit.shape[1], rows.turned(x, keys)
    none = jnp.zeros(hit.shape)
    sizes = [size for size in GATHERED if size < c]

    def gathered(size: int) -> Float[Array, "B C"]:
        some, slot = jax.lax.top_k(needed.astype(jnp.float32), size)
        found = rows.dot(rows.take(keys, slot), x)
        return none.at[:, jnp.where(some > 0, slot, c)].set(found, mode="drop")

    branches = [
        lambda: none,
        *(lambda size=size: gathered(size) for size in sizes),
        lambda: rows.products(keys, x),
    ]
    return jax.lax.switch(jnp.searchsorted(jnp.asarray([0, *sizes]), needed.sum()), branches)


def hit_weights(
    cfg: EditorConfig,
    repo: Repository,
    query: Query,
    at: Int[Array, ""] | None = None,
    axis: Axis | None = None,
    vision: Float[Array, "B C"] | None = None,
) -> tuple[Bool[Array, "B C"], Float[Array, "B C"]]:
    """Every row's hit and weight, for showing which edits fired: `repo.edit_id[hit[b]]`."""
    hit = hits(cfg, repo, query, at, vision)
    score = products_of_hits(repo.text_key, query.text, hit) / unit(cfg)
    return hit, masked_softmax(score, hit, axis) * jax.nn.sigmoid(score)


def route(
    cfg: EditorConfig,
    repo: Repository,
    query: Query,
    at: Int[Array, ""] | None = None,
    axis: Axis | None = None,
    vision: Float[Array, "B C"] | None = None,
) -> Route:
    """The top K of all hits, with weights normalised over ALL hits: exact while K >= hit_n.

    Args:
        cfg: K is `cfg.top_k`, or C where that is smaller.
        repo: the stored edits (with `axis`: this device's rows).
        query: B encoded queries.
        at: a clock to look back to, one for all queries or one each (int32[B, 1]); None: now.
        axis: the mesh axis that rows are split over.
        vision: `vision_scores`, where they are known already.

    Returns:
        Slots of the whole repository; the same on every device.
    """
    hit, weight = hit_weights(cfg, repo, query, at, axis, vision)
    c = weight.shape[-1]
    top, slot = jax.lax.top_k(weight, min(cfg.top_k, c))
    total, hit_n, slot = weight.sum(-1), hit.sum(-1), slot + first_row(c, axis)
    if axis is not None:
        total, hit_n = jax.lax.psum((total, hit_n), axis)
        top, slot = jax.lax.all_gather((top, slot), axis, axis=1, tiled=True)
        top, best = jax.lax.top_k(top, min(cfg.top_k, top.shape[1]))
        slot = jnp.take_along_axis(slot, best, axis=1)
    kept = jnp.where(total > 0, top.sum(-1) / jnp.where(total > 0, total, 1.0), 1.0)
    return Route(slot=slot, weight=top, hit_n=hit_n, kept=kept)


def bodies(
    repo: Repository, slot: Int[Array, "B K"]
) -> tuple[Float[Array, "B K R D"], Float[Array, "B K R D"]]:
    """`down` and `up` of these rows."""
    return rows.take(repo.down, slot), rows.take(repo.up, slot)


def experts_of(
    repo: Repository, routed: Route, axis: Axis | None = None
) -> tuple[Float[Array, "B K"], Float[Array, "B K R D"], Float[Array, "B K R D"]]:
    """The weights, `down` and `up` of routed experts; with `axis` other devices' weigh nothing."""
    c = repo.born.shape[0]
    slot = routed.slot - first_row(c, axis)
    weight = jnp.where((slot >= 0) & (slot < c), routed.weight, 0.0)
    return weight, *bodies(repo, jnp.clip(slot, 0, c - 1))
