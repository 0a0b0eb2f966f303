"""Writes that survive a kill or a power cut: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def sync_folder(folder: Path) -> None:
    """Make names created, renamed or removed in `folder` durable; Windows cannot be asked to."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Write what is at `file` when the block ends; if it fails or is killed, the old content is."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(fresh, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(file.parent)


def replace_file(file: Path, data: bytes) -> None:
    """Put `data` at `file` in one step: afterwards either the old or the new content is there."""
    with replacing(file) as out:
        out.write(data)


@contextmanager
def create_file(file: Path) -> Iterator[Path]:
    """Put what the block writes under the name it gets at `file`; what is there already stays."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}")
    fresh.unlink(missing_ok=True)
    try:
        yield fresh
        with open(fresh, "rb+") as out:
            os.fsync(out.fileno())
        try:
            os.link(fresh, file)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not file.exists():
                fresh.rename(file)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(file.parent)
