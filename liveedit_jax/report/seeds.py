"""Means and standard deviations over runs that differ only in their seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from liveedit_jax.evaluation.metrics import COLUMNS
from liveedit_jax.evaluation.run_folder import write_atomic


@dataclass(frozen=True)
class MeanStd:
    """A mean over seeds, and the sample standard deviation where there are several."""

    mean: float | None
    std: float | None = None


def mean_std(values: Sequence[float | None]) -> MeanStd:
    """Compute mean and deviation; both are None where a value is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return MeanStd(None)
    return MeanStd(fmean(known), stdev(known) if len(known) > 1 else None)


def summarise(runs: Sequence[dict]) -> list[dict]:
    """Average the `results.json` of several runs, mark by mark.

    Raises:
        ValueError: the runs have different marks.
    """
    marks = [[mark["edits"] for mark in run["marks"]] for run in runs]
    if any(other != marks[0] for other in marks):
        raise ValueError(f"runs with different marks: {marks}")
    found = []
    for at, edits in enumerate(marks[0]):
        entries = [run["marks"][at] for run in runs]
        figures = {name: mean_std([entry[name] for entry in entries]) for name in COLUMNS}
        exact = {
            name: mean_std([entry["exact_match"][name] for entry in entries])
            for name in entries[0]["exact_match"]
        }
        found.append({"edits": edits, "runs": len(runs), **figures, "exact_match": exact})
    return found


def write_summary(runs: Sequence[dict], file: Path) -> None:
    """Write the summary of the runs and their seeds as JSON."""
    content = {"seeds": [run["seed"] for run in runs], "marks": summarise(runs)}
    write_atomic(file, json.dumps(content, indent=1, default=asdict) + "\n")
