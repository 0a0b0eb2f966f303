"""Images: rendering drawings, and each backbone's own preprocessing of a decoded picture."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from liveedit_jax.backbone_config import BackboneConfig, ResizeMode, VisionConfig
from liveedit_jax.backbones.registry import find_tiling
from liveedit_jax.data.decoding import open_picture, read_bytes
from liveedit_jax.data.facts import Entity, drawing_files, entities
from liveedit_jax.data.layout import Layout, single_layout

ASPECT_MOST = 16  # longer edge by shorter; what is beyond is cut off before a centre crop
SQUARE_MOST = 4096  # side of a padded square; a longer picture is shrunk before it is padded


class ProcessedImage(NamedTuple):
    """A preprocessed picture, and the layout of its tokens."""

    pixels: Float[np.ndarray, "S S 3"] | Float[np.ndarray, "N S S 3"] | None
    layout: Layout | None = None


def drawing_png(entity: Entity, source: str, size: int) -> bytes:
    """Render one drawing on white, `size` pixels a side, as PNG bytes."""
    import resvg_py

    svg = drawing_files(source)[entity.file_key].read_text("utf-8")
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white"))


@lru_cache(maxsize=8192)
def drawing(entity_id: int, source: str, size: int) -> np.ndarray:
    """Render one drawing on white as uint8[size, size, 3]; it is cached, so do not write to it."""
    return decode_image(drawing_png(entities()[entity_id], source, size), size)


def pad_to_square(picture: Image.Image) -> Image.Image:
    """Centre a picture on a white square (opaque RGBA) as wide as its longer edge.

    A picture of more than SQUARE_MOST pixels along an edge is shrunk to that.
    """
    side = max(picture.size)
    if side > SQUARE_MOST:
        width, height = (max(1, round(n * SQUARE_MOST / side)) for n in picture.size)
        picture, side = picture.resize((width, height), Image.Resampling.BICUBIC), SQUARE_MOST
    square = Image.new("RGBA", (side, side), "white")
    corner = ((side - picture.width) // 2, (side - picture.height) // 2)
    square.alpha_composite(picture.convert("RGBA"), corner)
    return square


def _over_white(picture: Image.Image) -> Image.Image:
    """Put a picture on white."""
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    return white


def decode_image(data: bytes, size: int, name: str = "image") -> np.ndarray:
    """Decode image bytes to uint8[size, size, 3]: padded to a white square, resized bicubically.

    Raises:
        ValueError: the bytes are not a picture that `open_picture` takes.
    """
    square = pad_to_square(open_picture(data, name, size))
    if square.width != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square.convert("RGB"))


def _centre_crop(picture: Image.Image, side: int) -> Image.Image:
    """Resize the shorter edge to `side` and crop the centre."""
    short, long = sorted(picture.size)
    if long > ASPECT_MOST * short:
        kept = [min(n, ASPECT_MOST * short) for n in picture.size]
        left, top = ((n - k) // 2 for n, k in zip(picture.size, kept, strict=True))
        picture = picture.crop((left, top, left + kept[0], top + kept[1]))
        short, long = sorted(picture.size)
    longer = int(side * long / short)
    wide = picture.width > picture.height
    width, height = (longer, side) if wide else (side, longer)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def preprocess(cfg: BackboneConfig, data: bytes, name: str = "image") -> ProcessedImage:
    """Preprocess image bytes as the backbone's own processor does.

    As in the original processors, transparent parts become white where the model pads
    (`ResizeMode.PAD`) or where its config says so; elsewhere the alpha channel is dropped.

    Raises:
        ValueError: the bytes are not a picture that `open_picture` takes.
    """
    side = cfg.vision.image_size
    if cfg.tiles is not None:
        # tiles and their tokens follow from a picture's proportions
        picture = open_picture(data, name, cfg.drawing_size, exact=True)
        picture = _over_white(picture) if cfg.over_white else picture
        tiling = find_tiling(cfg.tiles)
        cut = [np.asarray(tile) for tile in tiling.cut(cfg, picture)]
        pixels = np.zeros(cfg.image_shape, np.float32)
        pixels[: len(cut)] = normalise_pixels(np.stack(cut), cfg.vision)
        return ProcessedImage(pixels, tiling.layout(cfg, (picture.height, picture.width)))
    layout = single_layout(cfg.vision_n)
    if cfg.fit is ResizeMode.PAD:
        return ProcessedImage(normalise_pixels(decode_image(data, side, name), cfg.vision), layout)
    picture = open_picture(data, name, side)
    picture = (_over_white(picture) if cfg.over_white else picture).convert("RGB")
    if cfg.fit is ResizeMode.CROP:
        picture = _centre_crop(picture, side)
    else:
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    return ProcessedImage(normalise_pixels(np.asarray(picture), cfg.vision), layout)


def square_layout(cfg: BackboneConfig) -> Layout:
    """Return the layout of a square picture of `drawing_size`."""
    if cfg.tiles is None:
        return single_layout(cfg.vision_n)
    return find_tiling(cfg.tiles).layout(cfg, (cfg.drawing_size, cfg.drawing_size))


def picture_bytes(picture: bytes | Path) -> bytes:
    """Return a record's picture as encoded bytes, read now if it is a file.

    Raises:
        FileNotFoundError: no such file.
    """
    return picture if isinstance(picture, bytes) else read_bytes(picture)


def normalise_pixels(image: np.ndarray, cfg: VisionConfig) -> np.ndarray:
    """Scale and standardise uint8[..., S, S, 3] to the float32 that the vision tower takes."""
    mean = np.asarray(cfg.image_mean, np.float32)
    std = np.asarray(cfg.image_std, np.float32)
    return (image.astype(np.float32) / 255.0 - mean) / std
