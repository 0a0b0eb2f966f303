"""Positions and attention masks of rows of tokens, and of the tokens that are generated after them.

A token's position is what rotary or learned positions see. Its place in a key-value cache is its
row, which is another number where positions have gaps.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from liveedit_jax.backbone_config import DecoderConfig, Reach
from liveedit_jax.types import AnyArray, Batch, Role

Positions = Int[AnyArray, "B T"] | Int[AnyArray, "B T 3"]


def on_axes(cfg: DecoderConfig, position: Positions) -> Positions:
    """Repeat positions of one axis on all three, where the decoder's have three."""
    if not cfg.rope_axes or position.ndim == 3:
        return position
    return jnp.repeat(position[..., None], 3, axis=-1)


def positions(cfg: DecoderConfig, batch: Batch) -> Positions:
    """Return the positions of tokens: the batch's, or 0, 1, 2, ... without counting padding.

    They are [B, T, 3] (time, height, width) where the decoder's rotary positions have three axes.
    """
    found = batch.position
    if found is None:
        found = jnp.maximum(jnp.cumsum(batch.role != Role.PAD, axis=1) - 1, 0)
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
    A token of a packed row attends to segment 0 and to its own segment.
    """
    t, role = batch.token.shape[1], batch.role
    mask = causal = jnp.tril(jnp.ones((t, t), bool))
    if cfg.reach is Reach.PREFIX:
        before = (role != Role.PAD) & (role != Role.ANSWER)
        mask = mask | (before[:, :, None] & before[:, None, :])
    elif cfg.reach is Reach.IMAGE:
        image = _image_number(role)
        mask = mask | ((image > 0)[:, :, None] & (image[:, :, None] == image[:, None, :]))
    visible = (role != Role.PAD)[:, None, :]
    if batch.segment is not None:
        query, key = batch.segment[:, :, None], batch.segment[:, None, :]
        visible = visible & ((key == 0) | (key == query))
    order = (causal & visible).sum(-1)  # a token's number among those it could see
    return _in_windows(cfg, mask & visible, order[:, :, None] - order[:, None, :])


def next_mask(cfg: DecoderConfig, rows_n: int, at: Int[AnyArray, " B"]) -> Bool[Array, "K B 1 S"]:
    """Compute what a generated token in row `at` of the cache attends to: rows up to its own.

    It is an answer's, to which no other reach than the causal one applies.
    """
    behind = (jnp.asarray(at)[:, None] - jnp.arange(rows_n))[:, None]
    return _in_windows(cfg, behind >= 0, behind)
