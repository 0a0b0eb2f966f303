"""Chunks of a stream: at a mark of n edits, floor(cases / n) chunks start from a fresh state."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def check_marks(marks: tuple[int, ...], cases_n: int) -> None:
    """Refuse marks that cannot be evaluated.

    Raises:
        ValueError: no marks, a mark below 1, marks that do not rise strictly, or fewer cases than
            the largest mark.
    """
    if not marks or min(marks) < 1 or list(marks) != sorted(set(marks)):
        raise ValueError(f"marks {list(marks)}: give rising numbers of edits from 1 up")
    if cases_n < marks[-1]:
        raise ValueError(f"cases={cases_n} is below the largest mark, {marks[-1]}")


def count_cases(mark: int, cases_n: int) -> int:
    """Return how many cases a mark counts: as many whole chunks as fit `cases_n`, at least one.

    Examples:
        >>> count_cases(mark=100, cases_n=250), count_cases(mark=1_000, cases_n=250)
        (200, 1000)
    """
    return max(cases_n // mark, 1) * mark


def chunk_of(case: Int[np.ndarray, " X"], mark: int) -> Int[np.ndarray, " X"]:
    """Return the number of the chunk that each case belongs to.

    Examples:
        >>> chunk_of(np.arange(5), mark=2).tolist()
        [0, 0, 1, 1, 2]
    """
    return np.asarray(case) // mark
