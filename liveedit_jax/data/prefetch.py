"""Batches made ahead of the step that needs them, in another thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

BATCHES_AHEAD_N = 2


def prefetch(batch_at: Callable[[int], Any], start: int, steps_n: int) -> Iterator[Any]:
    """`batch_at(start), ..., batch_at(steps_n - 1)`, in order.

    A batch is a function of its step, so the step is all that a checkpoint has to know of where
    the data was.
    """
    import grain

    steps = grain.MapDataset.range(start, steps_n).map(batch_at)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCHES_AHEAD_N)
    return iter(steps.to_iter_dataset(options))
