"""Cutting a stream into chunks: a mark of n edits means floor(cases / n) fresh states."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def check_marks(marks: tuple[int, ...], cases_n: int) -> None:
    """Refuse marks that no protocol can run.

    Raises:
        ValueError: no marks, a mark below 1, marks not rising, or fewer cases than the largest.
    """
    if not marks or min(marks) < 1 or list(marks) != sorted(set(marks)):
        raise ValueError(f"marks {list(marks)}: give rising numbers of edits from 1 up")
    if cases_n < marks[-1]:
        raise ValueError(f"cases={cases_n} is below the largest mark, {marks[-1]}")


def counted_n(mark: int, cases_n: int) -> int:
    """How many cases a mark counts: whole chunks of at most `cases_n` cases, or else one chunk."""
    return max(cases_n // mark, 1) * mark


def chunk_of(case: Int[np.ndarray, " X"], mark: int) -> Int[np.ndarray, " X"]:
    """The chunk each case belongs to."""
    return np.asarray(case) // mark
