"""Text rows: prompts and answers without the image and everything before it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from liveedit_jax.types import AnyArray, Batch, Role


class Text(NamedTuple):
    """B texts of at most X tokens, right-padded."""

    token: Int[Array, "B X"]
    role: Int[Array, "B X"]


def extract_text(batch: Batch, most_n: int) -> Text:
    """Extract the first `most_n` tokens of each row's prompt and answer, left-aligned."""
    told = batch.role >= Role.PROMPT
    first = jnp.argsort(~told, axis=1, stable=True)[:, :most_n]
    room = ((0, 0), (0, most_n - first.shape[1]))

    def moved(leaf: AnyArray) -> Array:
        return jnp.pad(jnp.take_along_axis(jnp.where(told, leaf, 0), first, axis=1), room)

    return Text(moved(batch.token), moved(batch.role))


def append_eos(text: Text, eos_id: int) -> Text:
    """Append EOS to the texts' answers, where there is room."""
    after = (text.role != Role.PAD).sum(1, keepdims=True)
    end = jnp.arange(text.token.shape[1]) == after
    return Text(jnp.where(end, eos_id, text.token), jnp.where(end, Role.ANSWER, text.role))


def text_positions(batch: Batch, at: Int[Array, "B A"]) -> Int[Array, "B A"]:
    """Map positions in rows to positions in the texts that `extract_text` makes of them."""
    before = jnp.cumsum(batch.role >= Role.PROMPT, axis=1) - 1
    return jnp.maximum(jnp.take_along_axis(before, at, axis=1), 0)
