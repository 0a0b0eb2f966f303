"""Pictures of edits, kept by content so that every request can be made again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from liveedit_jax.store.durable import replace_file


def image_sha256(data: bytes) -> str:
    """The name an image is kept under."""
    return hashlib.sha256(data).hexdigest()


def put_image(folder: Path, data: bytes) -> str:
    """Keep an image durably; returns its sha256."""
    sha256 = image_sha256(data)
    file = folder / sha256
    if not file.exists() or file.stat().st_size != len(data):
        replace_file(file, data)
    return sha256


def get_image(folder: Path, sha256: str) -> bytes:
    """A kept image's bytes.

    Raises:
        ValueError: it is missing or not what was kept.
    """
    file = folder / sha256
    if not file.is_file():
        raise ValueError(f"the image {file} is missing; restore it from a backup")
    data = file.read_bytes()
    if image_sha256(data) != sha256:
        raise ValueError(f"the image {file} is damaged; restore it from a backup")
    return data
