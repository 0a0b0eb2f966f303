"""Pictures that the map of images learns to tell apart, each in several views.

There are a few hundred training drawings, and a map has many more entries. So drawings are
recoloured and pasted into collages, too; photographs join them where there are some. Every one is a
picture of its own, and its views (cropped, brighter or darker, mirrored) are the same picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from liveedit_jax.config import DirectionsFitConfig
from liveedit_jax.data.augment import augment, collage

RECOLOUR_TRIES_N = 4
RECOLOURED_LEAST = 6.0  # mean difference of a recoloured drawing's channels, of 255
HUE_LEAST = 40  # of 256, the least turn of hues
PASTED_MOST = 4  # drawings of a collage


class Instance(NamedTuple):
    """A picture, followed by its views. Equal subjects show the same thing."""

    views: UInt8[np.ndarray, "V+1 S S 3"]
    subject: int
    is_drawing: bool  # one of the training drawings


def recolour(
    rng: np.random.Generator, picture: UInt8[np.ndarray, "S S 3"]
) -> UInt8[np.ndarray, "S S 3"] | None:
    """Swap a picture's channels or turn its hues; None where its colours hardly change."""
    for _ in range(RECOLOUR_TRIES_N):
        if rng.random() < 0.5:
            hues = np.array(Image.fromarray(picture).convert("HSV"))
            hues[..., 0] += np.uint8(rng.integers(HUE_LEAST, 256 - HUE_LEAST))
            made = np.asarray(Image.fromarray(hues, "HSV").convert("RGB"))
        else:
            made = picture[..., rng.permutation(3)]
        if np.abs(made.astype(np.int16) - picture).mean() > RECOLOURED_LEAST:
            return made
    return None


def draw_instances(
    cfg: DirectionsFitConfig,
    drawings: Sequence[UInt8[np.ndarray, "S S 3"]],
    subject: Sequence[int],
    photographs: Sequence[UInt8[np.ndarray, "S S 3"]],
    seed: int,
) -> Iterator[Instance]:
    """Draw the pictures, and `cfg.views_n` views of each.

    Args:
        cfg: how many of each kind.
        drawings: the training drawings.
        subject: what each drawing shows.
        photographs: further pictures, each of something else.
        seed: determines all draws.
    """
    rng = np.random.default_rng([seed, 6])
    others_from = max(subject) + 1

    def others() -> Iterator[np.ndarray]:
        yield from photographs
        for picture in drawings:
            made = [recolour(rng, picture) for _ in range(cfg.recoloured_n)]
            yield from (one for one in made if one is not None)
        for _ in range(cfg.collages_n):
            pasted_n = min(int(rng.integers(1, PASTED_MOST + 1)), len(drawings))
            pasted = rng.choice(len(drawings), pasted_n, replace=False)
            yield collage(rng, [drawings[i] for i in pasted])

    def views(picture: np.ndarray) -> np.ndarray:
        made = [augment(rng, picture, mirror=True) for _ in range(cfg.views_n)]
        return np.stack([picture, *made])

    for picture, shown in zip(drawings, subject, strict=True):
        yield Instance(views(picture), shown, True)
    for i, picture in enumerate(others(), others_from):
        yield Instance(views(picture), i, False)
