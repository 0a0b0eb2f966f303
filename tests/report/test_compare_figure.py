"""The figure of a comparison: its scale, its ticks, and that every line is drawn and seen."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from liveedit_jax.evaluation.metrics import METRICS
from liveedit_jax.report.compare import group_runs, load_run, table_rows
from liveedit_jax.report.compare_figure import draw_comparison
from liveedit_jax.report.compare_page import styles_of
from liveedit_jax.report.figure import draw_metrics, panels, printable
from liveedit_jax.report.metric_sets import known_sets
from liveedit_jax.report.seeds import MeanStd
from liveedit_jax.report.series import (
    COLOURS,
    FAINT,
    Series,
    dodge,
    error_ticks,
    from_error_scale,
    stack_coinciding,
    style_of,
    to_error_scale,
)
from tests.report.made_runs import entry, write_run


def line(*means, std=None):
    return Series("a", style_of(0), [(10**i, mean, std) for i, mean in enumerate(means)])


def test_halving_what_is_missing_is_the_same_step_everywhere():
    missing = np.asarray([80.0, 40.0, 20.0, 10.0, 5.0])
    place = to_error_scale(100 + FAINT - missing)
    np.testing.assert_allclose(np.diff(place), np.log(2))
    np.testing.assert_allclose(from_error_scale(place), 100 + FAINT - missing)


@pytest.mark.parametrize(
    "lines, ticks",
    [
        ([line(99.2, 99.9)], (99, 99.5, 100)),
        ([line(100, 100)], (99, 99.5, 100)),
        ([line(91, 93, std=2)], (80, 90, 95)),
        ([line(0, 0)], (0, 20, 40)),
        ([], (0, 40, 80, 90, 95, 98, 99, 100)),
    ],
)
def test_an_axis_is_zoomed_to_its_lines_and_bands(lines, ticks):
    assert error_ticks(lines) == ticks


def test_lines_that_coincide_are_stacked_and_equal_points_lie_side_by_side():
    lines = [line(100, 100), line(100, 99), line(100, 100), line(), line(100, 100)]
    assert stack_coinciding(lines) == [1, 0, 0, 0, -1]
    assert [dodge(i, 3, 4, 100) for i in range(3)] == [-4, 0, 4]
    assert [dodge(i, 3, 4, 6) for i in range(3)] == [-3, 0, 3]
    assert dodge(0, 1, 4, 6) == 0


def test_no_two_lines_have_the_same_style():
    styles = [style_of(i) for i in range(3 * len(COLOURS))]
    assert len(set(styles)) == len(styles)


def test_text_that_the_font_lacks_is_left_out():
    assert printable("tiny · 大 \N{ROCKET}LiveEdit") == "tiny ·  LiveEdit"


@pytest.fixture
def compared(tmp_path):
    runs = [write_run(tmp_path / f"{n}", seed=n, value=80.0 + n) for n in range(2)]
    runs.append(write_run(tmp_path / "other", value=60.0, backbone="smol"))
    setups = group_runs([load_run(run) for run in runs])
    return setups, table_rows(setups), styles_of(setups)


def test_every_line_is_drawn_with_its_band(compared, tmp_path):
    setups, rows, styles = compared

    def picture(rows):
        draw_comparison(setups, rows, styles, tmp_path / "drawn.png")
        return np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB")).astype(int)

    def coloured(image, setup):
        own = np.asarray(list(bytes.fromhex(styles[setup.name].colour[1:])))
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
        if row.backbone != "tiny"
        else replace(row, values=row.values | {"average": MeanStd(None)})
        for row in rows
    ]
    less = picture(unknown)
    assert coloured(less, setups[0]) < coloured(whole, setups[0])


def test_metrics_that_no_run_has_are_not_shown(compared):
    _, rows, _ = compared
    names = {metrics.title: metrics.names for metrics in known_sets(rows)}
    assert list(names) == [
        *("Token accuracy", "Exact match of free generation"),
        *("Hard locality, token accuracy", "Portability, token accuracy"),
    ]
    assert "other_drawing" not in names["Token accuracy"]
    assert len(names["Portability, token accuracy"]) == 4
    bare = [replace(row, values={"average": row.values["average"]}, exact_match={}) for row in rows]
    assert [(metrics.title, metrics.names) for metrics in known_sets(bare)] == [
        ("Token accuracy", ("average",))
    ]


def test_a_run_of_its_own_has_a_panel_for_each_group_that_is_known(tmp_path):
    results = {"marks": [entry(1, 90.0), entry(10, 80.0)]}
    shown = panels(results)
    assert [title for title, _ in shown] == [
        *("Token accuracy", "Exact match of free generation"),
        *("Hard locality, token accuracy", "Portability, token accuracy"),
    ]
    assert shown[1][1][0].points == [(1, 70.0, None), (10, 60.0, None)]
    for mark in results["marks"]:
        mark["portability"] = {metric.name: None for metric in METRICS}
        del mark["hard_locality"]
    assert len(panels(results)) == 2
    draw_metrics(results, tmp_path / "metrics.png")
    with Image.open(tmp_path / "metrics.png") as drawn:
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 30
