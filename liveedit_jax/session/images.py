"""Pictures as people give them: an image file's name, its bytes, or a picture in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from liveedit_jax.data.decoding import encode_picture, read_bytes


@dataclass(frozen=True)
class ImageFile:
    """An encoded picture (PNG, JPEG, ...), and the name of its file where it has one."""

    data: bytes
    name: str | None = None


# In memory: a PIL image, or uint8[H, W, 3], [H, W, 4] or [H, W]; it is kept as PNG.
Image = str | Path | bytes | ImageFile | PIL.Image.Image | np.ndarray


def check_image(image: Image) -> None:
    """Refuse what cannot be read, without reading it.

    Raises:
        FileNotFoundError: no such file.
        TypeError: none of `Image`.
    """
    if not isinstance(image, Image):
        raise TypeError(
            "a picture is an image file's name, its bytes, a PIL image or a uint8 array, not "
            f"{type(image).__name__}"
        )
    if isinstance(image, str | Path) and not Path(image).is_file():
        raise FileNotFoundError(f"no image file at {image}")


def read_image(image: Image) -> ImageFile:
    """Read a picture's bytes; files and bytes are not decoded.

    Raises:
        FileNotFoundError, TypeError: as `check_image`.
        ValueError: a file or a picture in memory that is too large, or an array of another kind.
    """
    check_image(image)
    if isinstance(image, ImageFile):
        return image
    if isinstance(image, bytes):
        return ImageFile(image)
    if isinstance(image, PIL.Image.Image | np.ndarray):
        return ImageFile(encode_picture(image))
    name = os.fsencode(Path(image).name).decode(errors="replace")  # it is kept as UTF-8
    return ImageFile(read_bytes(image), name)
