"""Hard routing by what the image shows, soft routing by what the text asks (equations 5 to 7)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor.attention import masked_softmax
from liveedit_jax.editor.repository import alive
from liveedit_jax.types import Query, Repository, Route


def similarity(
    cfg: EditorConfig, a: Float[Array, "B H"], b: Float[Array, "C H"]
) -> Float[Array, "B C"]:
    """<a, b> over E and M, divided by E * sqrt(M)."""
    return a @ b.T / (cfg.queries_n * cfg.module_width**0.5)


def soft_weights(score: Float[Array, "B C"], mask: Bool[Array, "B C"]) -> Float[Array, "B C"]:
    """softmax over the masked experts, times sigmoid; zeros where the mask is empty."""
    return masked_softmax(score, mask) * jax.nn.sigmoid(score)


def hits(
    cfg: EditorConfig, repo: Repository, query: Query, at: Int[Array, ""] | None = None
) -> Bool[Array, "B C"]:
    """Hard routing: the experts whose image resembles the query's more than the sentinel does."""
    score = similarity(cfg, query.vision, repo.vision_key)
    return (score > query.threshold[:, None]) & alive(repo, at)


def hit_weights(
    cfg: EditorConfig, repo: Repository, query: Query, at: Int[Array, ""] | None = None
) -> tuple[Bool[Array, "B C"], Float[Array, "B C"]]:
    """Every row's hit and weight, for showing which edits fired: `repo.edit_id[hit[b]]`."""
    hit = hits(cfg, repo, query, at)
    return hit, soft_weights(similarity(cfg, query.text, repo.text_key), hit)


def route(
    cfg: EditorConfig, repo: Repository, query: Query, at: Int[Array, ""] | None = None
) -> Route:
    """The top K of all hits, with weights normalised over ALL hits: exact while K >= hit_n.

    Args:
        cfg: K is `cfg.top_k`, or C where that is smaller.
        repo: the stored edits.
        query: B encoded queries.
        at: a clock to look back to, one for all queries or one each (int32[B, 1]); None: now.
    """
    hit, weight = hit_weights(cfg, repo, query, at)
    total = weight.sum(-1)
    top, slot = jax.lax.top_k(weight, min(cfg.top_k, weight.shape[-1]))
    kept = jnp.where(total > 0, top.sum(-1) / jnp.where(total > 0, total, 1.0), 1.0)
    return Route(slot=slot, weight=top, hit_n=hit.sum(-1), kept=kept)
