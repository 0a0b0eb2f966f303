"""The figure of a comparison: its scale, and that every line is drawn."""

from dataclasses import replace

import numpy as np
from PIL import Image

from liveedit_jax.report.compare import group_runs, load_run, table_rows
from liveedit_jax.report.compare_figure import (
    FAINT,
    draw_comparison,
    from_error_scale,
    to_error_scale,
)
from liveedit_jax.report.compare_page import colours_of
from liveedit_jax.report.seeds import MeanStd
from tests.report.made_runs import write_run


def test_halving_what_is_missing_is_the_same_step_everywhere():
    missing = np.asarray([80.0, 40.0, 20.0, 10.0, 5.0])
    place = to_error_scale(100 + FAINT - missing)
    np.testing.assert_allclose(np.diff(place), np.log(2))
    np.testing.assert_allclose(from_error_scale(place), 100 + FAINT - missing)


def test_every_line_is_drawn_with_its_band(tmp_path):
    runs = [write_run(tmp_path / f"{n}", seed=n, value=80.0 + n) for n in range(2)]
    setups = group_runs([load_run(run) for run in runs])
    rows, colours = table_rows(setups), colours_of(setups)

    def picture(rows):
        draw_comparison(setups, rows, colours, tmp_path / "drawn.png")
        return np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB")).astype(int)

    def coloured(image, setup):
        own = np.asarray(list(bytes.fromhex(colours[setup.name][1:])))
        return int((image == own).all(-1).sum())

    whole = picture(rows)
    assert all(coloured(whole, setup) > 50 for setup in setups)
    narrow = [
        replace(row, values={name: MeanStd(figure.mean) for name, figure in row.values.items()})
        for row in rows
    ]
    assert (picture(narrow) != whole).any()  # the bands are gone
    unknown = [
        row
        if row.editor != "liveedit"
        else replace(row, values=row.values | {"average": MeanStd(None)})
        for row in rows
    ]
    less = picture(unknown)
    assert coloured(less, setups[0]) < coloured(whole, setups[0])
