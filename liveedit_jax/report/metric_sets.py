"""Metrics that are shown together: a table and charts on a page, a row of panels in a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from liveedit_jax.evaluation.metrics import COLUMNS, GROUPS, UNGROUPED, group_members, label
from liveedit_jax.report.compare import Row
from liveedit_jax.report.seeds import MeanStd


@dataclass(frozen=True)
class MetricSet:
    """Metrics and averages under one title, measured in the same way."""

    title: str
    measure: str  # the field of `Row` that holds them: "values" (token accuracy) or "exact_match"
    names: tuple[str, ...]

    def figure(self, row: Row, name: str) -> MeanStd:
        """Return the figure of a row."""
        return getattr(row, self.measure).get(name, MeanStd(None))


PAPER = MetricSet("Token accuracy", "values", COLUMNS)
METRIC_SETS = (
    replace(PAPER, names=(*COLUMNS, *(name for name in UNGROUPED if name not in COLUMNS))),
    MetricSet("Exact match of free generation", "exact_match", UNGROUPED),
    *(
        MetricSet(f"{label(group).capitalize()}, token accuracy", "values", group_members(group))
        for group in GROUPS
    ),
)


def known_sets(rows: Sequence[Row]) -> list[MetricSet]:
    """Return METRIC_SETS without the metrics that no row has."""
    found = []
    for metrics in METRIC_SETS:
        names = (
            n for n in metrics.names if any(metrics.figure(r, n).mean is not None for r in rows)
        )
        found.append(replace(metrics, names=tuple(names)))
    return [metrics for metrics in found if metrics.names]
