"""Stored rows as our batches: roles, states of consecutive parts, padding."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from liveedit_jax.types import Batch, Role

PARTS = (
    ("pre_vision", Role.PRE),
    ("vision", Role.VISION),
    ("query", Role.PROMPT),
    ("ans", Role.ANSWER),
)  # the released code's names for a row's parts


def roles(*parts: tuple[Role, int]) -> np.ndarray:
    """Make one row int8[1, T] of consecutive roles."""
    return np.concatenate([np.full(n, role, np.int8) for role, n in parts])[None]


def states(*parts: tuple[Role, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate parts of a row into hidden states f32[1, T, D] and roles."""
    return (
        np.concatenate([part for _, part in parts], axis=1),
        roles(*((role, part.shape[1]) for role, part in parts)),
    )


def image_batch(
    ids: np.ndarray, image_id: int, vision_n: int, pixels: np.ndarray, answer_n: int
) -> Batch:
    """Make a batch of one row whose single image token in `ids` [1, L] becomes P VISION roles.

    Raises:
        ValueError: not exactly one image token, or an answer longer than the text.
    """
    if (ids == image_id).sum() != 1 or len(ids) != 1:
        raise ValueError(f"expected one row of ids with one image token {image_id}")
    at = int(np.argmax(ids[0] == image_id))
    prompt_n = ids.shape[1] - at - 1 - answer_n
    if prompt_n < 0 or answer_n < 0:
        raise ValueError(f"an answer of {answer_n} tokens does not fit {ids.shape[1]} ids")
    gap = np.zeros((1, vision_n), ids.dtype)
    token = np.concatenate([ids[:, :at], gap, ids[:, at + 1 :]], axis=1)
    role = roles(
        (Role.PRE, at),
        (Role.VISION, vision_n),
        (Role.PROMPT, prompt_n),
        (Role.ANSWER, answer_n),
    )
    return Batch(token.astype(np.int32), role, pixels.transpose(0, 2, 3, 1))


def text_batch(ids: np.ndarray, answer_n: int) -> Batch:
    """Make a batch of one text-only row; its first token is PRE."""
    prompt_n = ids.shape[1] - 1 - answer_n
    role = roles((Role.PRE, 1), (Role.PROMPT, prompt_n), (Role.ANSWER, answer_n))
    return Batch(ids.astype(np.int32), role, None)


def relabel_answers(role: np.ndarray) -> np.ndarray:
    """Turn ANSWER roles into PROMPT: the released code routes on these without a query range."""
    return np.where(role == Role.ANSWER, Role.PROMPT, role)


def pad(array: np.ndarray, length_n: int, axis: int = 1) -> np.ndarray:
    """Right-pad one axis with zeros (role PAD)."""
    widths = [(0, 0)] * np.ndim(array)
    widths[axis] = (0, length_n - array.shape[axis])
    return np.pad(array, widths)


def stack(rows: Sequence[np.ndarray]) -> jnp.ndarray:
    """Concatenate rows [1, T, ...] of different lengths, right-padded."""
    longest = max(row.shape[1] for row in rows)
    return jnp.asarray(np.concatenate([pad(np.asarray(row), longest) for row in rows]))
