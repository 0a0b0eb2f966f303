"""The figures of `results.json`, computed from the lines of `cases.jsonl` and `routes.jsonl`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from liveedit_jax.evaluation.metrics import (
    AVERAGES,
    BY_NAME,
    GROUPS,
    HIT_METRICS,
    METRICS,
    UNGROUPED,
    as_unedited,
    average_members,
    exact_match,
    forced_accuracy,
    group_members,
)
from liveedit_jax.evaluation.probes import key_of
from liveedit_jax.evaluation.retention import retention_figures


def read_lines(file: str | Path) -> Iterator[dict]:
    """Yield the objects of a JSON-lines file, one at a time."""
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


class Tally:
    """Running sums over the lines of one mark, so that a file need not fit in memory."""

    def __init__(self):
        """Start with nothing counted."""
        self._sums: dict = defaultdict(
            lambda: [0, 0.0, 0.0, 0]
        )  # probe -> n, accuracy, exact, hit_n
        self._cases: set[int] = set()
        self._hit_max = 0
        self._kept_min = 1.0

    def add(self, line: dict) -> None:
        """Count one line of cases.jsonl."""
        row = self._sums[line["probe"]]
        row[0] += 1
        row[1] += forced_accuracy(line)
        row[2] += exact_match(line)
        row[3] += line["hit_n"]
        self._cases.add(line["case"])
        if BY_NAME[line["probe"]].always:
            self._hit_max = max(self._hit_max, line["hit_n"])

    def add_route(self, line: dict) -> None:
        """Count one line of routes.jsonl."""
        if BY_NAME[line["probe"]].always:
            self._kept_min = min(self._kept_min, line["kept"])

    def figures(self, edits: int) -> dict:
        """Return one entry of results.json: percentages and counts.

        A figure is None where no probe of the metric was counted. `hit_n_mean` is taken over the
        metrics in HIT_METRICS.
        """

        def mean(probe: str, column: int, scale: float = 100.0) -> float | None:
            n = self._sums[probe][0]
            return scale * self._sums[probe][column] / n if n else None

        shown = [metric.name for metric in METRICS if metric.always or self._sums[metric.name][0]]
        forced = {probe: mean(probe, 1) for probe in shown}
        seen = [self._sums[probe] for probe in HIT_METRICS]
        shown_n = sum(row[0] for row in seen)

        def group(name: str, of: dict) -> dict:
            return {probe: of[probe] for probe in group_members(name) if probe in forced}

        return {
            "edits": edits,
            "cases": len(self._cases),
            **{probe: forced[probe] for probe in UNGROUPED if probe in forced},
            **{name: _average(forced, average_members(name)) for name in AVERAGES},
            "exact_match": {probe: mean(probe, 2) for probe in shown},
            **{name: group(name, forced) for name in GROUPS},
            **{f"{name}_n": group(name, {p: self._sums[p][0] for p in shown}) for name in GROUPS},
            "hit_n_mean": sum(row[3] for row in seen) / shown_n if shown_n else 0.0,
            "hit_n_max": self._hit_max,
            "hit_n_by_probe": {probe: mean(probe, 3, 1.0) for probe in shown},
            "kept_min": self._kept_min,
        }


def _average(figures: dict[str, float | None], names: Iterable[str]) -> float | None:
    """Average the figures that are not None."""
    known = [value for name in names if (value := figures.get(name)) is not None]
    return sum(known) / len(known) if known else None


def mark_figures(lines: Iterable[dict], routes: Iterable[dict] = ()) -> list[dict]:
    """Compute the figures of every mark, in the order in which the marks first occur in `lines`."""
    tallies: dict[int, Tally] = defaultdict(Tally)
    for line in lines:
        tallies[line["mark"]].add(line)
    for route in routes:
        tallies[route["mark"]].add_route(route)
    return [tally.figures(mark) for mark, tally in tallies.items()]


def unedited_figures(lines: Iterable[dict]) -> dict:
    """Compute the unedited model's figures, counting each probe of each case once."""
    tally, seen = Tally(), set()
    for line in lines:
        if key_of(line) not in seen:
            seen.add(key_of(line))
            tally.add(as_unedited(line))
    return tally.figures(0)


def folder_figures(folder: str | Path) -> dict:
    """Compute the entries `unedited` and `marks` of results.json from a run folder's lines."""
    folder = Path(folder)
    marks = mark_figures(read_lines(folder / "cases.jsonl"), read_lines(folder / "routes.jsonl"))
    if (folder / "retention.jsonl").is_file():
        kept = retention_figures(read_lines(folder / "retention.jsonl"))
        marks = [entry | kept.get(entry["edits"], {}) for entry in marks]
    return {"unedited": unedited_figures(read_lines(folder / "cases.jsonl")), "marks": marks}
