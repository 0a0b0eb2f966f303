"""`comparison.png`: every metric of every setup against the number of edits, with bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing

from liveedit_jax.evaluation.metrics import AVERAGES, COLUMNS, label
from liveedit_jax.report.compare import Row, Setup, display_name, points, rows_of
from liveedit_jax.report.figure import set_edit_axis

TICKS = (0, 50, 80, 90, 95, 98, 99, 100)
FAINT = 0.5  # percent that the scale adds to what is missing, so that 100 has a place


def to_error_scale(percent: np.ndarray) -> np.ndarray:
    """Map percentages to a logarithmic scale of the error: halving it is the same step everywhere.

    FAINT is added to the error, so that 100 % has a place.
    """
    return -np.log(100 + FAINT - np.minimum(percent, 100))


def from_error_scale(place: np.ndarray) -> np.ndarray:
    """Invert `to_error_scale`."""
    return 100 + FAINT - np.exp(-np.asarray(place))


def _draw(axis: Axes, setup: Setup, rows: Sequence[Row], metric: str, colour: str) -> None:
    found = points({row.edits: row.values[metric] for row in rows})
    if not found:
        return
    edits, mean, std = (np.asarray(part, float) for part in zip(*found, strict=True))
    ours = setup.editor.startswith("liveedit")
    width, order = (3, 3) if ours else (1.5, 2)
    axis.plot(edits, mean, "o-", color=colour, markersize=4, linewidth=width, zorder=order)
    low, high = np.clip([mean - std, mean + std], 0, 100)  # nan where there is one seed
    axis.fill_between(edits, low, high, color=colour, alpha=0.2, linewidth=0)


def draw_comparison(
    setups: Sequence[Setup], rows: Sequence[Row], colours: dict[str, str], file: Path
) -> None:
    """Write the figure as PNG.

    Args:
        setups: the setups to compare; the legend names backbone and dataset if there are several.
        rows: their figures.
        colours: the colour of each setup, by its name.
        file: the file to write.
    """
    held = {setup.name: rows_of(setup, rows) for setup in setups}
    several = len({(setup.backbone, setup.dataset) for setup in setups}) > 1
    figure = Drawing(figsize=(13, 7.2), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    marks = sorted({row.edits for row in rows})
    axes = figure.subplots(-(-len(COLUMNS) // 3), 3, sharey=True).flat
    for axis, metric in zip(axes, COLUMNS, strict=False):
        for setup in setups:
            _draw(axis, setup, held[setup.name], metric, colours[setup.name])
        axis.set_title(label(metric), weight="bold" if metric in AVERAGES else "normal")
        axis.set_yscale("function", functions=(to_error_scale, from_error_scale))
        axis.set_ylim(0, 100.1)
        axis.set_yticks(TICKS, [f"{tick} %" for tick in TICKS])
        set_edit_axis(axis, marks)
    figure.supxlabel("edits in a row", fontsize=10)

    def last(setup: Setup) -> float:
        mean = held[setup.name][-1].values["average"].mean
        return -1.0 if mean is None else mean

    ranked = sorted(setups, key=last, reverse=True)
    handles = [axis.plot([], [], "o-", color=colours[setup.name])[0] for setup in ranked]
    names = [setup.name if several else display_name(setup.editor) for setup in ranked]
    texts = [
        f"{name}  {last(setup):.1f}" if last(setup) >= 0 else name
        for setup, name in zip(ranked, names, strict=True)
    ]
    heading = f"average at\n{marks[-1]:,} edits"
    figure.legend(handles, texts, loc="outside right center", frameon=False, title=heading)
    figure.savefig(file, format="png")
