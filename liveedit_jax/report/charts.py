"""Small inline SVG charts: lines over a logarithmic axis of edits, and bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from liveedit_jax.report.series import (
    Series,
    Style,
    dodge,
    error_ticks,
    stack_coinciding,
    to_error_scale,
)

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 34, 12, 18, 30
INSET = 22  # the first and last numbers of edits are so far from the sides
DODGE, DODGE_MOST = 4, 24  # pixels between neighbouring lines, and between the outermost
STACK = 3  # pixels between coinciding lines


@dataclass(frozen=True)
class Axis:
    """A vertical axis from its first to its last tick."""

    ticks: tuple[float, ...]
    error: bool = False  # logarithmic in the error, 100 - x

    def y(self, value: float) -> float:
        """Return the height of a value in the chart; values outside are put on the border."""
        low, high = self.ticks[0], self.ticks[-1]
        value = min(max(value, low), high)
        if self.error:
            value, low, high = (float(to_error_scale(x)) for x in (value, low, high))
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))


def linear_axis(high: float) -> Axis:
    """Return an axis from 0 to `high` with four equal steps."""
    return Axis(tuple(high * i / 4 for i in range(5)))


def error_axis(lines: Sequence[Series]) -> Axis:
    """Return an axis of percentages that is logarithmic in the error and holds all the lines."""
    return Axis(error_ticks(lines), error=True)


def nice_ceiling(value: float) -> float:
    """Return the next round number at or above `value` that four grid steps divide well."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value - 1e-9)


def _x(values: Sequence[int]) -> list[float]:
    logs = [math.log10(value) for value in values]
    low, high = min(logs), max(logs)
    span = (high - low) or 1.0
    inner = WIDTH - LEFT - RIGHT - 2 * INSET
    return [LEFT + INSET + inner * ((v - low) / span if high > low else 0.5) for v in logs]


def _grid(axis: Axis) -> list[str]:
    """Draw grid lines and labels at an axis's ticks."""
    parts = []
    for value in axis.ticks:
        y = axis.y(value)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="tick end">{value:.4g}</text>')
    return parts


def _marker(style: Style, x: float, y: float, title: str = "") -> str:
    """Draw a line's marker."""
    fill, r = f'fill="{style.colour}"', 3.6
    shapes = {
        "s": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "^": ((0, -1.2), (1.2, 1), (-1.2, 1)),
        "v": ((0, 1.2), (1.2, -1), (-1.2, -1)),
        "D": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "P": (
            *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
            *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
        ),
    }
    said = f"<title>{escape(title)}</title>" if title else ""
    if style.marker not in shapes:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {fill}>{said}</circle>'
    points = " ".join(f"{x + r * a:.1f},{y + r * b:.1f}" for a, b in shapes[style.marker])
    return f'<polygon points="{points}" {fill}>{said}</polygon>'


def _stroke(style: Style) -> str:
    dashes = f' stroke-dasharray="{" ".join(map(str, style.dashes))}"' if style.dashes else ""
    return f'fill="none" stroke="{style.colour}" stroke-width="{3 if style.strong else 2}"{dashes}'


def band_chart(lines: Sequence[Series], axis: Axis) -> str:
    """Plot means against numbers of edits with bands of one standard deviation; no legend.

    Lines are moved a little to the side, so that equal points lie side by side, and lines that
    coincide are stacked.
    """
    edits = sorted({n for line in lines for n, _, _ in line.points})
    if not edits:
        return "<p class=note>nothing measured</p>"
    place, parts = dict(zip(edits, _x(edits), strict=True)), _grid(axis)
    taken = -math.inf  # up to there labels have been written
    for n, x in place.items():
        if x - taken >= 34:
            taken = x
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" class="tick middle">{n:,}</text>')
    for i, (line, up) in enumerate(zip(lines, stack_coinciding(lines), strict=True)):
        dx, dy = dodge(i, len(lines), DODGE, DODGE_MOST), -STACK * up
        points = [(place[n] + dx, n, mean, std) for n, mean, std in line.points]
        wide = [(x, mean, std) for x, _, mean, std in points if std is not None]
        if wide:
            above = [f"{x:.1f},{axis.y(mean + std):.1f}" for x, mean, std in wide]
            below = [f"{x:.1f},{axis.y(mean - std):.1f}" for x, mean, std in reversed(wide)]
            parts.append(
                f'<polygon points="{" ".join(above + below)}" fill="{line.style.colour}"'
                f' stroke="{line.style.colour}" fill-opacity="0.15" stroke-opacity="0.3"/>'
            )
        path = " ".join(f"{x:.1f},{axis.y(mean) + dy:.1f}" for x, _, mean, _ in points)
        parts.append(f'<polyline points="{path}" {_stroke(line.style)}/>')
        for x, n, mean, std in points:
            spread = "" if std is None else f" ± {std:.2f}"
            title = f"{line.name}, {n:,} edits: {mean:.2f}{spread}"
            parts.append(_marker(line.style, x, axis.y(mean) + dy, title))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def bar_chart(
    names: Sequence[str],
    groups: Mapping[str, tuple[str, Sequence[float]]],
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
    axis = linear_axis(high)
    inner, parts, named = WIDTH - LEFT - RIGHT, _grid(axis), []
    slot = inner / len(names)
    width = slot * 0.78 / len(groups)
    for g, (group, (colour, shares)) in enumerate(groups.items()):
        for i, share in enumerate(shares):
            x, y = LEFT + slot * (i + 0.11) + g * width, axis.y(share)
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width - 1, 0.5):.1f}" rx="1.5"'
                f' height="{axis.y(0) - y:.1f}" fill="{colour}">'
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


def legend(styles: dict[str, Style]) -> str:
    """Return a legend of names and their lines."""
    spans = (
        f'<span><svg class="key" viewBox="0 0 34 12"><path d="M1 6H33" {_stroke(style)}/>'
        f"{_marker(style, 17, 6)}</svg>{escape(name)}</span>"
        for name, style in styles.items()
    )
    return f'<div class="legend">{"".join(spans)}</div>'


def cards(charts: Sequence[tuple[str, str]]) -> str:
    """Lay out charts under their titles, side by side where there is room."""
    made = (f'<section class="card"><h3>{escape(n)}</h3>{c}</section>' for n, c in charts)
    return f'<div class="charts">{"".join(made)}</div>'
