"""LLaVA-NeXT's tiling: the grid a picture is cut into, and the feature row of each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from liveedit_jax.backbone_config import AnyresConfig, BackboneConfig
from liveedit_jax.data.layout import Layout, Run

Grid = tuple[int, int]  # rows, columns of tiles
Size = tuple[int, int]  # height, width in pixels


def best_grid(size: Size, grids: Sequence[Grid], side: int) -> Grid:
    """Choose the grid that keeps most of a picture's pixels and, among those, wastes the fewest."""
    height, width = size

    def merit(grid: Grid) -> tuple[int, int]:
        rows, columns = grid[0] * side, grid[1] * side
        scale = min(columns / width, rows / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - rows * columns

    return max(grids, key=merit)


def fitted_size(size: Size, grid: Grid, side: int) -> Size:
    """Return the size at which a picture fills its grid with its proportions kept."""
    (height, width), (rows, columns) = size, (grid[0] * side, grid[1] * side)
    if columns / width < rows / height:
        return min(math.ceil(height * (columns / width)), rows), columns
    return rows, min(math.ceil(width * (rows / height)), columns)


def cut_tiles(picture: Image.Image, grids: Sequence[Grid], side: int) -> list[Image.Image]:
    """Cut a picture into tiles: first the whole picture squashed, then its grid in reading order.

    Inside the grid the picture keeps its proportions and is centred on black.
    """
    size = (picture.height, picture.width)
    grid = best_grid(size, grids, side)
    height, width = fitted_size(size, grid, side)
    rows, columns = grid[0] * side, grid[1] * side
    canvas = Image.new("RGB", (columns, rows))
    shrunk = picture.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(shrunk, ((columns - width) // 2, (rows - height) // 2))
    whole = picture.resize((side, side), Image.Resampling.BICUBIC)
    boxes = [
        (x * side, y * side, (x + 1) * side, (y + 1) * side)
        for y in range(grid[0])
        for x in range(grid[1])
    ]
    return [whole, *(canvas.crop(box) for box in boxes)]


def _covered_slices(size: Size, grid_size: Size) -> tuple[slice, slice]:
    """Return the rows and columns of a feature map over the grid that the picture covers."""
    (height, width), (rows, columns) = size, grid_size
    if width / height > columns / rows:
        covered = int(round(height * (columns / width), 7))
        margin = (rows - covered) // 2
        return slice(margin, rows - margin), slice(None)
    covered = int(round(width * (rows / height), 7))
    margin = (columns - covered) // 2
    return slice(None), slice(margin, columns - margin)


def token_rows(
    size: Size, grids: Sequence[Grid], side: int, patch: int, tiles_n: int
) -> Int[np.ndarray, " P"]:
    """Return the feature row of every vision token of a picture.

    Feature rows are the patches of the whole picture, those of up to `tiles_n` - 1 tiles, and last
    the newline, which follows every line of the feature map that the tiles form together.

    Args:
        size: the picture's height and width.
        grids: the grids that the model allows.
        side: side of a tile in pixels.
        patch: side of a patch in pixels.
        tiles_n: N, tiles of a picture in a batch, the squashed whole included.
    """
    n = side // patch
    rows, columns = best_grid(size, grids, side)
    tile = 1 + np.arange(rows * columns).reshape(rows, 1, columns, 1)
    inner = np.arange(n)[:, None, None] * n + np.arange(n)
    map_ = tile * n * n + inner[None]
    map_ = map_.reshape(rows * n, columns * n)
    map_ = map_[_covered_slices(size, map_.shape)]
    newline = np.full((len(map_), 1), tiles_n * n * n)
    tiled = np.concatenate([map_, newline], axis=1).ravel()
    return np.concatenate([np.arange(n * n), tiled]).astype(np.int32)


def cut_anyres(cfg: BackboneConfig, picture: Image.Image) -> list[Image.Image]:
    """Cut a picture into LLaVA-NeXT's tiles."""
    assert isinstance(cfg.tiles, AnyresConfig)
    return cut_tiles(picture.convert("RGB"), cfg.tiles.grids, cfg.vision.image_size)


@lru_cache(maxsize=1024)
def layout_anyres(cfg: BackboneConfig, size: Size) -> Layout:
    """Return the layout of a picture of a size: one run, with a newline after each line."""
    assert isinstance(cfg.tiles, AnyresConfig)
    vision: Any = cfg.vision  # of a tower that cuts tiles into patches
    side, tiles_n = vision.image_size, cfg.tiles.tiles_n
    return (Run((), token_rows(size, cfg.tiles.grids, side, vision.patch_size, tiles_n)),)
