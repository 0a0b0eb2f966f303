"""Reading files that others made, no more of them than fits into memory, and what was wrong."""

from __future__ import annotations

import os
from pathlib import Path


def read_file(file: str | Path, most: int, what: str = "file") -> bytes:
    """Read a file whole.

    Args:
        file: the file.
        most: bytes that it may have.
        what: what an error calls it.

    Raises:
        FileNotFoundError: there is no such file, or no regular one.
        OSError: it cannot be read.
        ValueError: it has more bytes.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {file}")
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        data = b"" if size > most else opened.read(size + 1)  # a limit is allocated at once
    if max(size, len(data)) > most:
        raise ValueError(f"{file} is too large: more than {most >> 20} MiB; shrink or split it")
    return data


def first_line(error: object) -> str:
    """Return the first line of an error's message, up to 200 characters, or else its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
