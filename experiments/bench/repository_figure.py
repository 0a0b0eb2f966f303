"""`costs.png`: the time of an edit and of a query against the number of stored experts."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

OURS, THEIRS = "#2f6bd8", "#c2375a"
HITS = {"0": ":", "10": "-", "all": "--"}


def draw_costs(found: dict, file: Path) -> None:
    """Write the figure as PNG: storing an edit on the left, answering a query on the right."""
    figure = Figure(figsize=(11, 5.2), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)

    def line(axis, side: str, value, style: str, colour: str, label: str) -> None:
        points = sorted((int(n), 1e3 * value(row)) for n, row in found[side].items())
        if points:
            axis.plot(
                *zip(*points, strict=True), style, marker="o", ms=4, color=colour, label=label
            )

    line(left, "ours", lambda row: row["add_s"], "-", OURS, "ours: in place")
    line(left, "ours", lambda row: row["add_to_1k_s"], ":", OURS, "to 1,000 in the same storage")
    line(left, "textbook", lambda row: row["append_s"], "-", THEIRS, "textbook: torch.cat")
    for name, style in HITS.items():
        key = f"query_hit_{name}"
        line(right, "ours", lambda row, k=key: row[f"{k}_b32_s"] / 32, style, OURS, f"ours, {name}")
        line(
            right,
            "textbook",
            lambda row, k=key: row[k]["best_s"],
            style,
            THEIRS,
            f"textbook, {name}",
        )
    left.set(title="Storing one edit")
    right.set(title="One query of 32: encode, route, residual (experts hit)")
    sizes = sorted(int(n) for n in found["ours"])
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="experts stored", ylabel="milliseconds")
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False, fontsize=8
        )
    figure.suptitle(f"Decoder width {found['width']}, two CPU cores, medians", fontsize=10)
    figure.savefig(file)
