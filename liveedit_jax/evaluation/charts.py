"""Small inline SVG charts: curves over a logarithmic axis, and bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from liveedit_jax.evaluation.figure import COLOURS, label

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 34, 12, 12, 30


def _x(values: Sequence[int]) -> list[float]:
    logs = [math.log10(value) for value in values]
    low, high = min(logs), max(logs)
    span = (high - low) or 1.0
    inner = WIDTH - LEFT - RIGHT - 24
    return [LEFT + 12 + inner * ((v - low) / span if high > low else 0.5) for v in logs]


def _y(percent: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - percent / 100)


def curves(edits: Sequence[int], named: dict[str, Sequence[float | None]]) -> str:
    """Percentages against numbers of edits, one line a metric, with its legend."""
    xs, parts = _x(edits), []
    for percent in (0, 25, 50, 75, 100):
        y = _y(percent)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" class="tick end">{percent}</text>')
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


def bars(names: Sequence[str], groups: dict[str, tuple[str, Sequence[float]]]) -> str:
    """Grouped bars: group -> (colour, a share in percent for each name)."""
    inner, parts, legend = WIDTH - LEFT - RIGHT, [], []
    slot = inner / len(names)
    width = slot * 0.78 / len(groups)
    for percent in (0, 25, 50, 75, 100):
        y = _y(percent)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" class="tick end">{percent}</text>')
    for g, (group, (colour, shares)) in enumerate(groups.items()):
        for i, share in enumerate(shares):
            x, y = LEFT + slot * (i + 0.11) + g * width, _y(share)
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 1:.1f}" rx="1.5"'
                f' height="{_y(0) - y:.1f}" fill="{colour}">'
                f"<title>{escape(group)}, {names[i]}: {share:.1f}%</title></rect>"
            )
        legend.append(f'<span><i style="background:{colour}"></i>{escape(group)}</span>')
    for i, name in enumerate(names):
        x = LEFT + slot * (i + 0.5)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" class="tick middle">{name}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
        f'<div class="legend">{"".join(legend)}</div>'
    )
