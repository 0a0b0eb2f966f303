"""Hard routing by image, then soft routing by text (paper equations 5 to 7).

Hard routing reads all vision keys in one product. Soft routing reads only the text keys of experts
that some query hits. Its softmax runs over all hits, and the bodies of the K strongest are read.
Both are exact.

With a mesh axis `axis`, the functions run inside a shard_map whose devices hold equal parts of the
rows. Every device scores its own rows; devices exchange a maximum, sums, and their K strongest.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import rows
from liveedit_jax.editor.attention import masked_softmax
from liveedit_jax.editor.repository import alive, first_row
from liveedit_jax.types import Axis, Margins, Query, Repository, Route, StoredRows

Moment = Int[Array, ""] | Int[Array, "B 1"]  # a clock, one for all queries or one for each
FEWEST_EDITS = 100  # below this number of live edits, thresholds that grow stay as they are
# The text keys of hit rows are gathered in arrays of 64 or 1024; with more hit rows, all are read.
GATHER_SIZES = (64, 1024)


def similarity_scale(cfg: EditorConfig) -> float:
    """Return E * sqrt(M), by which a dot product of keys is divided to give their similarity."""
    return cfg.queries_n * cfg.module_width**0.5


def similarity(
    cfg: EditorConfig, a: Float[Array, "B H"], b: Float[Array, "C H"]
) -> Float[Array, "B C"]:
    """Compute the similarities of keys a and b: <a, b> / (E * sqrt(M))."""
    return a @ b.T / similarity_scale(cfg)


def soft_weights(score: Float[Array, "B C"], mask: Bool[Array, "B C"]) -> Float[Array, "B C"]:
    """Compute the weights softmax(score) * sigmoid(score) over masked experts; zeros elsewhere.

    Examples:
        >>> score, hit = jnp.asarray([[0.0, 2.0, 9.0]]), jnp.asarray([[True, True, False]])
        >>> [round(float(weight), 2) for weight in soft_weights(score, hit)[0]]
        [0.06, 0.78, 0.0]
    """
    return masked_softmax(score, mask) * jax.nn.sigmoid(score)


def vision_scores(cfg: EditorConfig, repo: Repository, query: Query) -> Float[Array, "B C"]:
    """Compute the similarity of every row's image to each query's, dead rows included."""
    vision = rows.rotate(query.vision, repo.vision_key)
    return rows.products(repo.vision_key, vision) / similarity_scale(cfg)


def thresholds(
    repo: Repository, query: Query, at: Moment | None = None, axis: Axis | None = None
) -> Float[Array, "B 1"]:
    """Compute the vision scores that hits exceed, which may grow with the number of live edits.

    The more pictures are stored, the more of them resemble any other picture.
    """
    if query.growth is None:
        return query.threshold[:, None]
    live_n = alive(repo, at).sum(-1)
    if axis is not None:
        live_n = jax.lax.psum(live_n, axis)
    more = jnp.log(jnp.maximum(live_n, FEWEST_EDITS) / FEWEST_EDITS)
    return (query.threshold + query.growth * more)[:, None]


def hits(
    cfg: EditorConfig,
    repo: Repository,
    query: Query,
    at: Moment | None = None,
    vision: Float[Array, "B C"] | None = None,
    axis: Axis | None = None,
) -> Bool[Array, "B C"]:
    """Select experts by hard routing: those more similar to the query's image than the sentinel.

    `vision` is `vision_scores`, where they are known already.
    """
    score = vision_scores(cfg, repo, query) if vision is None else vision
    return (score > thresholds(repo, query, at, axis)) & alive(repo, at)


def margin(
    cfg: EditorConfig, repo: Repository, query: Query, at: Moment | None = None
) -> Float[Array, " B"]:
    """Compute the best live row's score minus the threshold: above 0, a query hits something.

    It is -inf where no row is alive.
    """
    score = jnp.where(alive(repo, at), vision_scores(cfg, repo, query), -jnp.inf)
    return score.max(-1) - thresholds(repo, query, at)[:, 0]


def margins(
    cfg: EditorConfig,
    repo: Repository,
    query: Query,
    slot: Int[Array, "B K"],
    vision: Float[Array, "B C"],
) -> Margins:
    """Score the experts in `slot` for each query; `vision` is `vision_scores`."""
    image = jnp.take_along_axis(vision, slot, axis=1) - thresholds(repo, query)
    key, text = rows.take(repo.text_key, slot), rows.rotate(query.text, repo.text_key)
    score = jnp.einsum("bkh,bh->bk", key, text, precision=jax.lax.Precision.HIGHEST)
    image = jnp.where(alive(repo)[slot], image, -jnp.inf)
    return Margins(slot=slot, image=image, text=score / similarity_scale(cfg))


def nearest(
    cfg: EditorConfig, repo: Repository, query: Query, n: int, vision: Float[Array, "B C"]
) -> Margins:
    """Find the `n` live experts whose images resemble each query's most, the nearest first."""
    slot = jax.lax.top_k(jnp.where(alive(repo), vision, -jnp.inf), min(n, vision.shape[1]))[1]
    return margins(cfg, repo, query, slot, vision)


def score_hits(
    keys: StoredRows, x: Float[Array, "B H"], hit: Bool[Array, "B C"]
) -> Float[Array, "B C"]:
    """Compute dot products of x with the rows that any of the B queries hits; zeros for others."""
    needed, c, x = hit.any(0), hit.shape[1], rows.rotate(x, keys)
    none = jnp.zeros(hit.shape)
    sizes = [size for size in GATHER_SIZES if size < c]

    def score_gathered(size: int) -> Float[Array, "B C"]:
        some, slot = jax.lax.top_k(needed.astype(jnp.float32), size)
        found = rows.dot(rows.take(keys, slot), x)
        return none.at[:, jnp.where(some > 0, slot, c)].set(found, mode="drop")

    branches = [
        lambda: none,
        *(lambda size=size: score_gathered(size) for size in sizes),
        lambda: rows.products(keys, x),
    ]
    return jax.lax.switch(jnp.searchsorted(jnp.asarray([0, *sizes]), needed.sum()), branches)


def hit_weights(
    cfg: EditorConfig,
    repo: Repository,
    query: Query,
    at: Moment | None = None,
    axis: Axis | None = None,
    vision: Float[Array, "B C"] | None = None,
) -> tuple[Bool[Array, "B C"], Float[Array, "B C"]]:
    """Compute every row's hit mask and weight, normalised over all hits.

    The edits that query b hits are `repo.edit_id[hit[b]]`. With `cfg.joint_scale`, experts that are
    hit compete by text and picture: of two edits that ask the same, the nearer picture's wins.
    """
    vision = vision_scores(cfg, repo, query) if vision is None else vision
    hit = hits(cfg, repo, query, at, vision, axis)
    score = score_hits(repo.text_key, query.text, hit) / similarity_scale(cfg)
    competing = score + cfg.joint_scale * vision if cfg.joint_scale else score
    return hit, masked_softmax(competing, hit, axis) * jax.nn.sigmoid(score)


def route(
    cfg: EditorConfig,
    repo: Repository,
    query: Query,
    at: Moment | None = None,
    axis: Axis | None = None,
    vision: Float[Array, "B C"] | None = None,
) -> Route:
    """Select the K strongest hits of each query; weights are normalised over all its hits.

    This is exact as long as a query has at most K hits.

    Args:
        cfg: K is `cfg.top_k`, or C if that is smaller.
        repo: the stored edits (with `axis`: this device's rows).
        query: B routing queries.
        at: route as of this clock, one for all queries or one each (int32[B, 1]); None: now.
        axis: the mesh axis that rows are split over.
        vision: `vision_scores`, where they are known already.

    Returns:
        The routes, the same on every device; slots count the rows of the whole repository.
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
    """Return `down` and `up` of the rows `slot`, in float32."""
    return rows.take(repo.down, slot), rows.take(repo.up, slot)


def gather_experts(
    repo: Repository, routed: Route, axis: Axis | None = None
) -> tuple[Float[Array, "B K"], Float[Array, "B K R D"], Float[Array, "B K R D"]]:
    """Return the weights, `down` and `up` of routed experts.

    With `axis`, experts that other devices hold have weight 0.
    """
    c = repo.born.shape[0]
    slot = routed.slot - first_row(c, axis)
    weight = jnp.where((slot >= 0) & (slot < c), routed.weight, 0.0)
    return weight, *bodies(repo, jnp.clip(slot, 0, c - 1))
