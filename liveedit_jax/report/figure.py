"""`metrics.png`: teacher-forced metrics, free generation and hard locality against edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from liveedit_jax.evaluation.metrics import (
    AVERAGES,
    METRICS,
    UNGROUPED,
    figure_of,
    group_members,
    label,
)

_PALETTE = ("#2f6bd8", "#1c9c86", "#7a4fd0", "#8a94a6", "#d9822b", "#c2375a", "#b58a00")
COLOURS = {metric.name: _PALETTE[i % len(_PALETTE)] for i, metric in enumerate(METRICS)}
COLOURS |= dict(zip(AVERAGES, ("#1d2433", "#6b7280"), strict=True))


def panels(results: dict) -> list[tuple[str, dict[str, list[float | None]]]]:
    """List the panels: their titles and their curves by metric, with one value per mark."""
    marks = results["marks"]

    def curves_of(names: Sequence[str]) -> dict[str, list[float | None]]:
        return {name: [figure_of(mark, name) for mark in marks] for name in names}

    return [
        ("Teacher-forced token accuracy", curves_of((*UNGROUPED, *AVERAGES))),
        (
            "Free generation, exact match",
            {name: [mark["exact_match"][name] for mark in marks] for name in UNGROUPED},
        ),
        ("Hard locality, token accuracy", curves_of(group_members("hard_locality"))),
    ]


def set_edit_axis(axis: Axes, edits: Sequence[int]) -> None:
    """Make a panel's x axis logarithmic, with ticks at just these numbers of edits."""
    axis.set_xscale("log")
    axis.set_xticks(edits, [f"{n:,}" for n in edits])
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def draw_metrics(results: dict, file: Path) -> None:
    """Write the figure as PNG."""
    figure = Figure(figsize=(13, 4.2), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    edits = [mark["edits"] for mark in results["marks"]]
    axes = figure.subplots(1, 3, sharey=True)
    for axis, (title, curves) in zip(axes, panels(results), strict=True):
        for name, values in curves.items():
            points = [(x, y) for x, y in zip(edits, values, strict=True) if y is not None]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    marker="o",
                    markersize=4,
                    linewidth=2.6 if name in AVERAGES else 1.6,
                    color=COLOURS[name],
                    label=label(name),
                )
        axis.set(title=title, xlabel="edits in the repository", ylim=(-2, 103))
        set_edit_axis(axis, edits)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8, loc="lower left")
    axes[0].set_ylabel("%")
    figure.savefig(file, format="png")
