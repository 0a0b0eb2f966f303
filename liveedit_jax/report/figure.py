"""`metrics.png`: the metrics of one run against edits; and the panels of every figure of lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from liveedit_jax.evaluation.metrics import (
    AVERAGES,
    GROUPS,
    METRICS,
    UNGROUPED,
    figure_of,
    group_members,
    label,
)
from liveedit_jax.report.series import (
    Series,
    Style,
    dodge,
    error_ticks,
    from_error_scale,
    stack_coinciding,
    style_of,
    to_error_scale,
)

STYLES = {metric.name: style_of(i) for i, metric in enumerate(METRICS)}
STYLES |= {
    name: Style(colour, (), marker, strong=True)
    for name, colour, marker in zip(AVERAGES, ("#1d2433", "#6b7280"), ("o", "s"), strict=True)
}
DODGE, DODGE_MOST = 2.5, 13  # points between neighbouring lines, and between the outermost
STACK = 2.6  # points between coinciding lines


def panels(results: dict) -> list[tuple[str, list[Series]]]:
    """List the panels that show something: their titles and a line for each known metric."""
    marks = results["marks"]

    def lines(names: Sequence[str], exact: bool = False) -> list[Series]:
        found = []
        for name in names:
            values = [
                mark["exact_match"].get(name) if exact else figure_of(mark, name) for mark in marks
            ]
            points = [
                (mark["edits"], value, None)
                for mark, value in zip(marks, values, strict=True)
                if value is not None
            ]
            found.append(Series(label(name), STYLES[name], points))
        return [line for line in found if line.points]

    shown = [
        ("Token accuracy", lines((*UNGROUPED, *AVERAGES))),
        ("Exact match of free generation", lines(UNGROUPED, exact=True)),
        *(
            (f"{label(group).capitalize()}, token accuracy", lines(group_members(group)))
            for group in GROUPS
        ),
    ]
    return [(title, found) for title, found in shown if found]


def printable(text: str) -> str:
    """Leave out the characters that matplotlib's font does not have, such as emoji."""
    font = get_font(findfont(FontProperties()))
    return "".join(c for c in text if font.get_char_index(ord(c))).strip()


def line_of(style: Style) -> dict:
    """Return matplotlib's properties of a line."""
    return {
        "color": style.colour,
        "linestyle": (0, style.dashes) if style.dashes else "-",
        "marker": style.marker,
        "markersize": 4.5,
        "linewidth": 2.6 if style.strong else 1.5,
        "zorder": 3 if style.strong else 2,
    }


def legend_handle(style: Style) -> Line2D:
    """Return a line for a legend."""
    return Line2D([], [], **line_of(style))


def draw_lines(axis: Axes, lines: Sequence[Series]) -> None:
    """Draw lines and their bands of one deviation into a panel.

    Lines are moved a little to the side, so that equal points lie side by side, and lines that
    coincide are stacked.
    """
    for i, (line, up) in enumerate(zip(lines, stack_coinciding(lines), strict=True)):
        if not line.points:
            continue
        dx, dy = dodge(i, len(lines), DODGE, DODGE_MOST) / 72, STACK * up / 72
        moved = axis.transData + ScaledTranslation(dx, dy, axis.figure.dpi_scale_trans)
        edits, mean, std = (np.asarray(part, float) for part in zip(*line.points, strict=True))
        axis.plot(edits, mean, transform=moved, clip_on=False, **line_of(line.style))
        low, high = np.clip([mean - std, mean + std], 0, 100)  # nan where there is one seed
        colour = line.style.colour
        axis.fill_between(edits, low, high, color=colour, alpha=0.15, linewidth=0, transform=moved)


def set_axes(axis: Axes, edits: Sequence[int], ticks: Sequence[float]) -> None:
    """Set a panel's axes: edits on a logarithmic scale, percentages by the logarithm of the error.

    Args:
        axis: the panel.
        edits: the numbers of edits that get ticks.
        ticks: the ticks of the axis of percentages, from its begin to its end.
    """
    axis.set_xscale("log")
    axis.set_xlim(min(edits) / 1.8, max(edits) * 1.8)
    axis.set_xticks(edits, [f"{n:,}" for n in edits])
    axis.minorticks_off()
    axis.set_yscale("function", functions=(to_error_scale, from_error_scale))
    axis.set_ylim(ticks[0], ticks[-1])
    axis.set_yticks(ticks, [f"{tick:g} %" for tick in ticks])
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def draw_metrics(results: dict, file: Path) -> None:
    """Write the figure as PNG: one panel per group of metrics, its legend below it."""
    shown = panels(results)
    figure = Figure(figsize=(4.4 * max(len(shown), 1), 5.2), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    edits = [mark["edits"] for mark in results["marks"]]
    for i, (title, lines) in enumerate(shown):
        axis = figure.add_subplot(1, len(shown), i + 1)
        draw_lines(axis, lines)
        axis.set_title(title, fontsize=11, pad=11)
        axis.set_xlabel("edits in the repository", fontsize=9)
        set_axes(axis, edits, error_ticks(lines))
        axis.legend(
            [legend_handle(line.style) for line in lines],
            [line.name for line in lines],
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=2,
            frameon=False,
            fontsize=8,
        )
    figure.savefig(file, format="png")
