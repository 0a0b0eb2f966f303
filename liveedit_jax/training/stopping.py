"""Ending a run well: SIGTERM is noted, and acted on between two steps."""

from __future__ import annotations

import signal
import threading

import jax
import numpy as np


class Stopping:
    """A context in which SIGTERM asks for an end instead of being one."""

    def __init__(self):
        """Nothing has been asked for."""
        self.told = False
        self._before = None

    def __enter__(self) -> Stopping:
        """Listen, where Python lets us: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_) -> None:
        """Listen no more."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, *_) -> None:
        self.told = True

    def asked(self, sync: bool) -> bool:
        """Tell whether to end now; the processes of a pod agree, at calls with `sync` alone."""
        if jax.process_count() == 1:
            return self.told
        if not sync:
            return False
        from jax.experimental.multihost_utils import process_allgather

        return bool(process_allgather(np.asarray(self.told)).any())
