"""Pictures: rendering the drawings, reading a user's file, normalising for a vision tower."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from liveedit_jax.backbone_config import ClipConfig
from liveedit_jax.data.facts import Entity, drawing_files, entities


def png(entity: Entity, source: str, size: int) -> bytes:
    """One drawing on white, `size` pixels a side, as PNG bytes."""
    import resvg_py

    svg = drawing_files(source)[entity.file_key].read_text("utf-8")
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white"))


@lru_cache(maxsize=8192)
def drawing(entity_id: int, source: str, size: int) -> np.ndarray:
    """One drawing on white as uint8[size, size, 3] (cached for the process; do not write to it)."""
    return decode_image(png(entities()[entity_id], source, size), size)


def decode_image(data: bytes, size: int, name: str = "image") -> np.ndarray:
    """Encoded image bytes as uint8[size, size, 3]: padded to a white square, bicubic.

    Raises:
        ValueError: the bytes are not a whole image.
    """
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} is not a readable image ({error}); use a PNG or JPEG") from error
    picture = picture.convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), "white")
    corner = ((side - picture.width) // 2, (side - picture.height) // 2)
    square.alpha_composite(picture, corner)
    if side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square.convert("RGB"))


def read_bytes(file: str | Path) -> bytes:
    """An image file's bytes, undecoded.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no image file at {file}")
    return path.read_bytes()


def load_image(file: str | Path, size: int) -> np.ndarray:
    """A user's image file as uint8[size, size, 3].

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable image.
    """
    return decode_image(read_bytes(file), size, str(file))


def normalise(image: np.ndarray, cfg: ClipConfig) -> np.ndarray:
    """uint8[..., S, S, 3] to the float32 the vision tower was trained on."""
    mean = np.asarray(cfg.image_mean, np.float32)
    std = np.asarray(cfg.image_std, np.float32)
    return (image.astype(np.float32) / 255.0 - mean) / std
