"""Styles of lines, and the scale of the error: shared by the charts of pages and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

COLOURS = (
    *("#3b7de0", "#e07b28", "#1c9c86", "#b05cd6", "#d9476a", "#a08a00", "#6f8f2a", "#7f8ba3"),
    *("#2aa3c9", "#7a4a2b", "#46506b", "#c24fa0"),
)
DASHES = ((), (5, 2), (2, 1.5), (7, 2, 1.5, 2))  # lengths of strokes and gaps in points; (): solid
MARKERS = ("o", "s", "^", "D", "v", "P")  # matplotlib's codes

FAINT = 0.5  # percent that the scale adds to the error, so that 100 has a place
TICKS = (0, 20, 40, 60, 80, 90, 95, 98, 99, 99.5, 100)
NEAREST = 0.09  # of the axis: the least distance between two ticks
COINCIDING = 0.02  # on the scale of the error: lines that are nowhere further apart are one


@dataclass(frozen=True)
class Style:
    """The style of a line. Lines differ in colour and mostly in dashes and marker, too."""

    colour: str
    dashes: tuple[float, ...] = ()
    marker: str = "o"
    strong: bool = False  # a thicker line


def style_of(i: int, strong: bool = False) -> Style:
    """Return the style of line i; the first 12 differ in colour, the next in dashes and marker."""
    turn, colour = divmod(i, len(COLOURS))
    dashes, marker = DASHES[(i + turn) % len(DASHES)], MARKERS[(i + turn) % len(MARKERS)]
    return Style(COLOURS[colour], dashes, marker, strong)


@dataclass(frozen=True)
class Series:
    """One line of a chart; its points are (edits, mean, deviation or None), by rising edits."""

    name: str
    style: Style
    points: Sequence[tuple[int, float, float | None]]


def to_error_scale(percent: ArrayLike) -> np.ndarray:
    """Map percentages to a logarithmic scale of the error: halving it is the same step everywhere.

    FAINT is added to the error, so that 100 % has a place.
    """
    return -np.log(100 + FAINT - np.minimum(percent, 100))


def from_error_scale(place: np.ndarray) -> np.ndarray:
    """Invert `to_error_scale`."""
    return 100 + FAINT - np.exp(-np.asarray(place))


def error_ticks(lines: Sequence[Series]) -> tuple[float, ...]:
    """Return the ticks of an axis of the error that is zoomed to the lines and their bands.

    Ticks that would be too close to their neighbours are left out.
    """
    points = [(mean, std or 0) for line in lines for _, mean, std in line.points]
    least = min((mean - std for mean, std in points), default=TICKS[0])
    most = max((mean + std for mean, std in points), default=TICKS[-1])
    first = max((i for i, tick in enumerate(TICKS) if tick <= least), default=0)
    last = min((i for i, tick in enumerate(TICKS) if tick >= most), default=len(TICKS) - 1)
    first = min(first, max(last - 2, 0))  # so that a line has something to be compared with
    last = max(last, first + 2)
    inside, places = TICKS[first : last + 1], to_error_scale(np.asarray(TICKS[first : last + 1]))
    nearest = NEAREST * (places[-1] - places[0])
    kept = [0]
    for i in range(1, len(inside) - 1):
        if places[i] - places[kept[-1]] >= nearest and places[-1] - places[i] >= nearest:
            kept.append(i)
    return tuple(inside[i] for i in (*kept, len(inside) - 1))


def stack_coinciding(lines: Sequence[Series]) -> list[float]:
    """Return how far up each line is moved, in line widths, so that coinciding lines lie stacked.

    Lines coincide where all points of the one are points of the other; the others stay in place.
    """
    stacks: list[list[int]] = []
    for i, line in enumerate(lines):
        for stack in stacks:
            if _coincide(line, lines[stack[0]]):
                stack.append(i)
                break
        else:
            stacks.append([i])
    up = [0.0] * len(lines)
    for stack in stacks:
        for rank, i in enumerate(stack):
            up[i] = (len(stack) - 1) / 2 - rank
    return up


def _coincide(a: Series, b: Series) -> bool:
    if not a.points or [n for n, _, _ in a.points] != [n for n, _, _ in b.points]:
        return False
    means = (np.asarray([mean for _, mean, _ in line.points]) for line in (a, b))
    first, second = map(to_error_scale, means)
    return bool(np.abs(first - second).max() < COINCIDING)


def dodge(i: int, n: int, step: float, most: float) -> float:
    """Return how far to the right line i of n is moved, so that equal points lie side by side.

    Neighbours are `step` apart, or less where all n would take more room than `most`.
    """
    step = min(step, most / max(n - 1, 1))
    return (i - (n - 1) / 2) * step
