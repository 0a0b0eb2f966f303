"""Cutting a stream into chunks of n edits, and many small repositories living in one.

A mark of n edits means floor(cases / n) fresh repositories. Their experts share one repository of
all cases, on whose clock each chunk is one moment: the rows of chunk c are born at c and dead at
c + 1, so a query that routes `at` its chunk sees that chunk's experts and no others.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from liveedit_jax.editor.repository import NEVER
from liveedit_jax.types import Repository


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


def with_chunks(repo: Repository, mark: int) -> Repository:
    """The repository of all cases, in the order of the stream, with chunks as moments."""
    row = np.arange(repo.born.shape[0])
    used = row < int(repo.used_n)
    chunk = chunk_of(row, mark)
    born = np.where(used, chunk, NEVER).astype(np.int32)
    died = np.where(used, chunk + 1, NEVER).astype(np.int32)
    return repo.replace(born=jnp.asarray(born), died=jnp.asarray(died))
