"""Prefetching: batches are made in another thread, ahead of the steps that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

BATCHES_AHEAD_N = 2


def prefetch(batch_at: Callable[[int], Any], start: int, steps_n: int) -> Iterator[Any]:
    """Iterate over `batch_at(start), ..., batch_at(steps_n - 1)`, made ahead in one thread.

    A batch is a function of its step, so a checkpoint needs no data state but the step.
    """
    import grain

    steps = grain.MapDataset.range(start, steps_n).map(batch_at)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCHES_AHEAD_N)
    return iter(steps.to_iter_dataset(options))
