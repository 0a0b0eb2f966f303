"""Positions and attention masks of rows of tokens, and of the tokens that are generated after them.

A token's position is what rotary or learned positions see. Its place in a key-value cache is its
row, which is another number where positions have gaps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbone_config import DecoderConfig, Reach
from liveedit_jax.backbones.attention import Crossing
from liveedit_jax.types import AnyArray, Batch, Role

Positions = Int[AnyArray, "B T"] | Int[AnyArray, "B T 3"]


def _is_token(cfg: DecoderConfig, role: Int[AnyArray, "B T"]) -> Bool[AnyArray, "B T"]:
    """Mask what self-attention and positions know of: neither padding nor carried features."""
    real = role != Role.PAD
    return real & (role != Role.VISION) if cfg.cross_every else real


def on_axes(cfg: DecoderConfig, position: Positions) -> Positions:
    """Repeat positions of one axis on all three, where the decoder's have three."""
    if not cfg.rope_axes or position.ndim == 3:
        return position
    return jnp.repeat(position[..., None], 3, axis=-1)


def positions(cfg: DecoderConfig, batch: Batch) -> Positions:
    """Return the positions of tokens: the batch's, or 0, 1, 2, ... without counting padding.

    Features that only cross-attention reads are not counted, either. Positions are [B, T, 3] (time,
    height, width) where the decoder's rotary positions have three axes.
    """
    found = batch.position
    if found is None:
        found = jnp.maximum(jnp.cumsum(_is_token(cfg, batch.role), axis=1) - 1, 0)
    return on_axes(cfg, found)


def next_position(cfg: DecoderConfig, batch: Batch) -> Int[Array, " B"] | Int[Array, "B 3"]:
    """Return the position of the first token that is generated: one after the largest of its row.

    Each further token has the next position.
    """
    found = positions(cfg, batch)
    real = (batch.role != Role.PAD).reshape(*batch.role.shape, *[1] * (found.ndim - 2))
    largest = jnp.where(real, found, -1).max(tuple(range(1, found.ndim)))
    return largest + 1 if found.ndim == 2 else jnp.repeat(largest[:, None] + 1, 3, axis=1)


def _image_number(role: Int[AnyArray, "B T"]) -> Int[Array, "B T"]:
    """Number the runs of VISION tokens of each row from 1 on; 0 elsewhere."""
    is_vision = role == Role.VISION
    begins = is_vision & ~jnp.pad(is_vision[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(is_vision, jnp.cumsum(begins, axis=1), 0)


def _segments(batch: Batch) -> Bool[AnyArray, "B T T"] | Bool[AnyArray, "1 1 1"]:
    """Mask the tokens that a token's segment lets it see."""
    if batch.segment is None:
        return jnp.ones((1, 1, 1), bool)
    query, key = batch.segment[:, :, None], batch.segment[:, None, :]
    return (key == 0) | (key == query)


def _in_windows(cfg: DecoderConfig, mask: Array, behind: Int[Array, "B T S"]) -> Array:
    """Restrict a mask [B, T, S] to the window of each kind of layers, [K, B, T, S].

    `behind` is by how many tokens a key is behind the token that attends to it.
    """
    windows = [kind.window for kind in cfg.kinds]
    if not any(windows):
        return mask[None]
    return jnp.stack([mask if n is None else mask & (behind < n) for n in windows])


def attention_mask(cfg: DecoderConfig, batch: Batch) -> Bool[Array, "K B T T"]:
    """Compute what tokens attend to, without padding and between packed segments.

    It follows `cfg.reach` and, for each kind of layers, its window; K = 1 if there are no windows.
    A token of a packed row attends to segment 0 and to its own segment. Nothing attends to features
    that only cross-attention reads.
    """
    t, role = batch.token.shape[1], batch.role
    mask = causal = jnp.tril(jnp.ones((t, t), bool))
    if cfg.reach is Reach.PREFIX:
        before = (role != Role.PAD) & (role != Role.ANSWER)
        mask = mask | (before[:, :, None] & before[:, None, :])
    elif cfg.reach is Reach.IMAGE:
        image = _image_number(role)
        mask = mask | ((image > 0)[:, :, None] & (image[:, :, None] == image[:, None, :]))
    visible = _is_token(cfg, role)[:, None, :] & _segments(batch)
    order = (causal & visible).sum(-1)  # a token's number among those it could see
    return _in_windows(cfg, mask & visible, order[:, :, None] - order[:, None, :])


def next_mask(
    cfg: DecoderConfig, rows_n: int, at: Int[AnyArray, " B"], role: Int[AnyArray, "B T"]
) -> Bool[Array, "K B 1 S"]:
    """Compute what a generated token in row `at` of the cache attends to: rows up to its own.

    It is an answer's, to which no other reach than the causal one applies.

    Args:
        cfg: the decoder.
        rows_n: S.
        at: the token's row, which is none of the prompt's tokens.
        role: of the prompts, whose padding is overwritten.
    """
    at, row = jnp.asarray(at)[:, None], jnp.arange(rows_n)
    skipped = (role != Role.PAD) & ~_is_token(cfg, role)
    visible = ~jnp.pad(skipped, ((0, 0), (0, rows_n - role.shape[1]))) & (row <= at)
    behind = visible.sum(1, keepdims=True) - jnp.cumsum(visible, axis=1)
    return _in_windows(cfg, visible[:, None], behind[:, None])


def carried(cfg: DecoderConfig, role: Int[AnyArray, "B T"]) -> Bool[AnyArray, "B T"] | None:
    """Mask the features that cross-attention reads and no layer changes; None without it."""
    return role == Role.VISION if cfg.cross_every else None


def crossing(cfg: DecoderConfig, batch: Batch) -> Crossing | None:
    """Compute what tokens read by cross-attention: the features of the last image before them.

    None: the decoder has no cross-attention.
    """
    if not cfg.cross_every:
        return None
    image = _image_number(batch.role)
    last = jax.lax.cummax(image, axis=1)
    mask = (image > 0)[:, None, :] & (image[:, None, :] == last[:, :, None])
    causal = jnp.tril(jnp.ones(mask.shape[1:], bool))
    return Crossing(mask & causal & _segments(batch), carried(cfg, batch.role))


def next_crossing(cfg: DecoderConfig, batch: Batch, x: Float[Array, "B T D"]) -> Crossing | None:
    """Compute what generated tokens read: what the last token of their prompt does.

    `x` holds the prompts' embeddings.
    """
    seen = crossing(cfg, batch)
    if seen is None:
        return None
    last = (batch.role != Role.PAD).sum(1)[:, None, None] - 1
    return Crossing(jnp.take_along_axis(seen.mask, last, axis=1), features=x)
