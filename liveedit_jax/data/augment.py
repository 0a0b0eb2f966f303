"""Image augmentation for pretraining: random views, and collages of several drawings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from liveedit_jax.data.views import crop_and_brighten

WHITE = 250  # channels from here on are background
CROP_SHARE = 0.22  # the largest share of a side that is cut away
LIGHT_SHARE = 0.3  # the largest share by which a view becomes brighter or darker


def augment(
    rng: np.random.Generator, picture: UInt8[np.ndarray, "S S 3"], mirror: bool
) -> UInt8[np.ndarray, "S S 3"]:
    """Draw a view: cropped, brighter or darker and, with `mirror`, mirrored half of the time."""
    side = len(picture)
    kept = side * (1 - CROP_SHARE * rng.random())
    left, top = (side - kept) * rng.random(2)
    light = 1 + LIGHT_SHARE * (2 * rng.random() - 1)
    box = (left, top, left + kept, top + kept)
    view = np.asarray(crop_and_brighten(Image.fromarray(picture), box, light))
    return view[:, ::-1] if mirror and rng.random() < 0.5 else view


def collage(
    rng: np.random.Generator, drawings: Sequence[UInt8[np.ndarray, "S S 3"]]
) -> UInt8[np.ndarray, "S S 3"]:
    """Paste drawings in random sizes, places and colours onto a blurred random background.

    The result shows no entity. A model that only ever sees drawings on white would otherwise know
    no pictures that fill their square, as photographs do.
    """
    side, coarse = len(drawings[0]), int(rng.integers(2, 10))
    blurred = Image.fromarray(rng.integers(0, 256, (coarse, coarse, 3), np.uint8))
    made = blurred.resize((side, side), Image.Resampling.BICUBIC)
    for drawing in drawings:
        size = int(rng.integers(side // 4, side + 1))
        mask = Image.fromarray(((drawing < WHITE).any(-1) * 255).astype(np.uint8))
        turned = Image.fromarray(np.ascontiguousarray(drawing[..., rng.permutation(3)]))
        left, top = (int(i) for i in rng.integers(-size // 3, side - 2 * size // 3, 2))
        made.paste(turned.resize((size, size)), (left, top), mask.resize((size, size)))
    return np.asarray(made)
