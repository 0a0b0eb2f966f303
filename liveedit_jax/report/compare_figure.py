"""`comparison.png`: every metric of every setup against the number of edits, with bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from liveedit_jax.evaluation.metrics import AVERAGES, label
from liveedit_jax.report.compare import Row, Setup, display_name, points, rows_of
from liveedit_jax.report.figure import draw_lines, legend_handle, printable, set_axes
from liveedit_jax.report.metric_sets import known_sets
from liveedit_jax.report.series import Series, Style, error_ticks

PANELS_N = 5  # in a row


def draw_comparison(
    setups: Sequence[Setup], rows: Sequence[Row], styles: dict[str, Style], file: Path
) -> None:
    """Write the figure as PNG.

    Args:
        setups: the setups to compare; the legend names backbone and dataset if there are several.
        rows: their figures.
        styles: the style of each setup's lines, by its name.
        file: the file to write.
    """
    held = {setup.name: rows_of(setup, rows) for setup in setups}
    marks = sorted({row.edits for row in rows})
    shown = known_sets(rows)
    heights = [-(-len(metrics.names) // PANELS_N) for metrics in shown]
    size = 14, 1 + 0.35 * len(shown) + 2.2 * sum(heights)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(shown), 1, squeeze=False, height_ratios=heights)
    for part, metrics, height in zip(parts[:, 0], shown, heights, strict=True):
        part.suptitle(metrics.title, x=0.01, ha="left", fontsize=12, weight="bold")
        panels = {
            name: [
                Series(
                    setup.name,
                    styles[setup.name],
                    points({row.edits: metrics.figure(row, name) for row in held[setup.name]}),
                )
                for setup in setups
            ]
            for name in metrics.names
        }
        ticks = error_ticks([line for lines in panels.values() for line in lines])
        for i, (name, lines) in enumerate(panels.items()):
            axis = part.add_subplot(height, PANELS_N, i + 1)
            draw_lines(axis, lines)
            set_axes(axis, marks, ticks)
            weight = "bold" if name in AVERAGES else "normal"
            axis.set_title(label(name), fontsize=10, weight=weight, pad=10)
            if i % PANELS_N:
                axis.set_yticklabels([])
        for i in range(len(panels), height * PANELS_N):  # keeps all panels of one size
            part.add_subplot(height, PANELS_N, i + 1).set_axis_off()
    figure.supxlabel(
        "edits in a row; % by the logarithm of the error; lines that coincide are stacked",
        fontsize=10,
    )

    def last(setup: Setup) -> float:
        mean = held[setup.name][-1].values["average"].mean
        return -1.0 if mean is None else mean

    several = len({(setup.backbone, setup.dataset) for setup in setups}) > 1
    ranked = sorted(setups, key=last, reverse=True)
    names = [setup.name if several else display_name(setup.editor) for setup in ranked]
    legend = figure.legend(
        [legend_handle(styles[setup.name]) for setup in ranked],
        [
            f"{printable(name)}  {last(setup):.1f}" if last(setup) >= 0 else printable(name)
            for setup, name in zip(ranked, names, strict=True)
        ],
        loc="outside right upper",
        frameon=False,
        title=f"average at\n{marks[-1]:,} edits",
        handlelength=3.5,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold a dollar sign
    figure.savefig(file, format="png")
