"""Small inline SVG charts: lines over a logarithmic axis, and bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from liveedit_jax.evaluation.metrics import label
from liveedit_jax.report.figure import COLOURS

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 34, 12, 12, 30


@dataclass(frozen=True)
class Series:
    """One line of `bands`; its points are (edits, mean, deviation or None), by rising edits."""

    name: str
    colour: str
    points: Sequence[tuple[int, float, float | None]]


def _x(values: Sequence[int]) -> list[float]:
    logs = [math.log10(value) for value in values]
    low, high = min(logs), max(logs)
    span = (high - low) or 1.0
    inner = WIDTH - LEFT - RIGHT - 24
    return [LEFT + 12 + inner * ((v - low) / span if high > low else 0.5) for v in logs]


def _y(value: float, low: float = 0, high: float = 100) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))


def line_chart(edits: Sequence[int], named: dict[str, Sequence[float | None]]) -> str:
    """Plot percentages against numbers of edits, one line per metric, with a legend."""
    xs, parts = _x(edits), _grid(0, 100)
    for x, n in zip(xs, edits, strict=True):
        parts.append(f'<text x="{x}" y="{HEIGHT - 10}" class="tick middle">{n:,}</text>')
    legend = []
    for name, values in named.items():
        points = [
            (x, _y(v), n, v) for x, n, v in zip(xs, edits, values, strict=True) if v is not None
        ]
        if not points:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
        colour, width = COLOURS[name], 3 if name == "average" else 2
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">'
            f"<title>{label(name)} at {n:,} edits: {v:.2f}%</title></circle>"
            for x, y, n, v in points
        ]
        legend.append(f'<span><i style="background:{colour}"></i>{escape(label(name))}</span>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
        f'<div class="legend">{"".join(legend)}</div>'
    )


def nice_ceiling(value: float) -> float:
    """Return the next round number at or above `value` that four grid steps divide well."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value - 1e-9)


def _grid(low: float, high: float) -> list[str]:
    """Draw grid lines and labels at four equal steps."""
    parts = []
    for value in (low + (high - low) * i / 4 for i in range(5)):
        y = _y(value, low, high)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" class="tick end">{value:.4g}</text>')
    return parts


def band_chart(lines: Sequence[Series], low: float = 0, high: float = 100) -> str:
    """Plot means against numbers of edits with bands of one standard deviation; no legend."""
    edits = sorted({n for line in lines for n, _, _ in line.points})
    if not edits:
        return "<p class=note>nothing measured</p>"
    place, parts, taken = dict(zip(edits, _x(edits), strict=True)), _grid(low, high), -WIDTH

    def y(value: float) -> str:
        return f"{_y(min(max(value, low), high), low, high):.1f}"

    for n, x in place.items():
        if x - taken >= 34:
            taken = x
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" class="tick middle">{n:,}</text>')
    for line in lines:
        wide = [(place[n], mean, std) for n, mean, std in line.points if std is not None]
        if wide:
            above = [f"{x:.1f},{y(mean + std)}" for x, mean, std in wide]
            below = [f"{x:.1f},{y(mean - std)}" for x, mean, std in reversed(wide)]
            parts.append(
                f'<polygon points="{" ".join(above + below)}" fill="{line.colour}"'
                f' stroke="{line.colour}" fill-opacity="0.18" stroke-opacity="0.35"/>'
            )
        path = " ".join(f"{place[n]:.1f},{y(mean)}" for n, mean, _ in line.points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"/>'
        )
        for n, mean, std in line.points:
            spread = "" if std is None else f" ± {std:.2f}"
            parts.append(
                f'<circle cx="{place[n]:.1f}" cy="{y(mean)}" r="3.5" fill="{line.colour}">'
                f"<title>{escape(line.name)}, {n:,} edits: {mean:.2f}{spread}</title></circle>"
            )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def bar_chart(
    names: Sequence[str],
    groups: dict[str, tuple[str, Sequence[float]]],
    high: float = 100,
    unit: str = "%",
    legend: bool = True,
) -> str:
    """Plot grouped bars on an axis from 0 to `high`.

    Args:
        names: the labels along the axis.
        groups: group -> (colour, one value per name).
        high: the end of the axis.
        unit: printed behind the values in tooltips.
        legend: add a legend.
    """
    inner, parts, named = WIDTH - LEFT - RIGHT, _grid(0, high), []
    slot = inner / len(names)
    width = slot * 0.78 / len(groups)
    for g, (group, (colour, shares)) in enumerate(groups.items()):
        for i, share in enumerate(shares):
            x, y = LEFT + slot * (i + 0.11) + g * width, _y(share, 0, high)
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width - 1, 0.5):.1f}" rx="1.5"'
                f' height="{_y(0) - y:.1f}" fill="{colour}">'
                f"<title>{escape(group)}, {names[i]}: {share:.4g}{unit}</title></rect>"
            )
        named.append(f'<span><i style="background:{colour}"></i>{escape(group)}</span>')
    for i, name in enumerate(names):
        x = LEFT + slot * (i + 0.5)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 10}" class="tick middle">{escape(name)}</text>'
        )
    drawn = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
    return drawn + (f'<div class="legend">{"".join(named)}</div>' if legend else "")


def legend(colours: dict[str, str]) -> str:
    """Return a legend of names and their colours."""
    spans = (
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<div class="legend">{"".join(spans)}</div>'


def cards(charts: Sequence[tuple[str, str]]) -> str:
    """Lay out charts under their titles, side by side where there is room."""
    made = (f'<section class="card"><h3>{escape(n)}</h3>{c}</section>' for n, c in charts)
    return f'<div class="charts">{"".join(made)}</div>'
