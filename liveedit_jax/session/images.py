"""Pictures as people give them: an image file's name, its bytes, or both."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from liveedit_jax.data.images import read_bytes


@dataclass(frozen=True)
class ImageFile:
    """An encoded picture (PNG, JPEG, ...), and the name of its file where it has one."""

    data: bytes
    name: str | None = None


Image = str | Path | bytes | ImageFile


def check_image(image: Image) -> None:
    """Refuse what cannot be read, without reading it.

    Raises:
        FileNotFoundError: no such file.
        TypeError: neither a file's name nor encoded bytes.
    """
    if not isinstance(image, Image):
        kind = type(image).__name__
        raise TypeError(f"a picture is an image file's name or its bytes, not {kind}")
    if isinstance(image, str | Path) and not Path(image).is_file():
        raise FileNotFoundError(f"no image file at {image}")


def read_image(image: Image) -> ImageFile:
    """Read a picture's bytes; they are not decoded.

    Raises:
        FileNotFoundError, TypeError: as `check_image`.
    """
    check_image(image)
    if isinstance(image, ImageFile):
        return image
    if isinstance(image, bytes):
        return ImageFile(image)
    name = os.fsencode(Path(image).name).decode(errors="replace")  # it is kept as UTF-8
    return ImageFile(read_bytes(image), name)
