"""Counts compilations: evidence that their number does not grow with the number of edits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


class CompileCount:
    """The number of programs compiled so far."""

    n = 0


@contextmanager
def count_compiles() -> Iterator[CompileCount]:
    """Count the programs that XLA compiles inside the `with` block."""
    count, active = CompileCount(), [True]

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if active[0] and event == EVENT:
            count.n += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield count
    finally:
        active[0] = False
