"""Packing: several questions about one image share a row, and so its vision tokens.

A row is [BOS][P VISION][question 1 + answer 1][question 2 + answer 2]... . The head is segment 0,
question k is segment k. The attention mask lets a question see the head and itself only, and every
question's positions start right after the head, so that a packed row computes what separate rows
would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from liveedit_jax.types import Role

Question = tuple[Sequence[int], Sequence[int]]  # prompt ids, answer ids


def pack_row(
    questions: Sequence[Question], length_n: int, bos_id: int, vision_n: int
) -> tuple[dict[str, np.ndarray], int]:
    """Pack questions into one row; a question that no longer fits is skipped.

    Args:
        questions: (prompt ids, answer ids) in the order of preference.
        length_n: T, the row's static length.
        bos_id: the id of the PRE token.
        vision_n: P, or 0 for a text-only row.

    Returns:
        int32 arrays token, role, position, segment [T], and the number of packed questions.
    """
    row = {name: np.zeros(length_n, np.int32) for name in ("token", "role", "position", "segment")}
    head_n = 1 + vision_n
    row["token"][0] = bos_id
    row["role"][:head_n] = [Role.PRE] + [Role.VISION] * vision_n
    row["position"][:head_n] = np.arange(head_n)
    at, packed_n = head_n, 0
    for prompt, answer in questions:
        n = len(prompt) + len(answer)
        if at + n > length_n:
            continue
        packed_n += 1
        row["token"][at : at + n] = [*prompt, *answer]
        row["role"][at : at + n] = [Role.PROMPT] * len(prompt) + [Role.ANSWER] * len(answer)
        row["position"][at : at + n] = head_n + np.arange(n)
        row["segment"][at : at + n] = packed_n
        at += n
    return row, packed_n


def collate_rows(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack packed rows of one length into arrays [B, T]."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
