"""One writer at a time."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def take_lock(folder: Path) -> int:
    """The folder's write lock, held until the handle is closed or the process dies.

    Raises:
        BlockingIOError: another process holds it.
        OSError: this system has no such locks (Windows).
    """
    if fcntl is None:
        raise OSError("writing to a repository needs file locks that Windows does not have")
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise BlockingIOError(
            f"another process is writing to {folder}; wait for it to end and try again"
        ) from error
    return handle
