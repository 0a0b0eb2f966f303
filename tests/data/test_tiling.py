"""LLaVA-NeXT's tiles: grids, sizes and token rows."""

import numpy as np
from PIL import Image

from liveedit_jax.data.tiling import best_grid, cut_tiles, fitted_size, token_rows

GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))


def test_a_picture_gets_the_grid_of_its_shape():
    assert best_grid((336, 672), GRIDS, 336) == (1, 2)
    assert best_grid((1000, 300), GRIDS, 336) == (3, 1)
    assert best_grid((700, 700), GRIDS, 336) == (2, 2)
    assert fitted_size((336, 1000), (1, 2), 336) == (226, 672)


def test_a_picture_of_the_grids_shape_uses_every_row_once():
    n = 3  # patches a side
    rows = token_rows((12, 24), GRIDS, 12, 4, 5)
    newline = 5 * n * n
    assert (rows == newline).sum() == n  # one a line
    inner = rows[rows != newline]
    assert sorted(inner) == list(range(3 * n * n))  # the whole picture and both tiles
    line = rows[n * n : n * n + 2 * n + 1]
    assert line.tolist() == [9, 10, 11, 18, 19, 20, newline]


def test_padding_is_left_out():
    rows = token_rows((6, 24), GRIDS, 12, 4, 5)  # half the height of its 1x2 grid
    lines = (rows == 45).sum()
    assert 0 < lines < 3 and len(rows) == 9 + lines * 7


def test_tiles_show_the_picture():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 16, 3), np.uint8))
    whole, left, right = cut_tiles(picture, GRIDS, 8)
    assert whole.size == left.size == right.size == (8, 8)
    np.testing.assert_array_equal(np.asarray(left), np.asarray(picture)[:, :8])
    np.testing.assert_array_equal(np.asarray(right), np.asarray(picture)[:, 8:])
