"""Counts of the experts that fired in the runs of one setup, from cases.jsonl and routes.jsonl."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from liveedit_jax.evaluation.metrics import HIT_METRICS, is_targeted
from liveedit_jax.report.compare import Run, Setup, run_lines
from liveedit_jax.report.seeds import MeanStd, mean_std

UNTARGETED = tuple(name for name in HIT_METRICS if not is_targeted(name))  # no edit is about these
CASE = ("mark", "case", "probe", "hit_n")
ROUTE = ("mark", "case", "probe", "experts", "kept")
STRENGTHS = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)  # borders of the strongest weight's bins
SHARES = (0.5, 0.9, 0.95, 0.99, 0.999)  # borders of the kept share's bins
MOST_N = 17  # so many experts or more are counted together


@dataclass
class Hits:
    """Hit counts of a setup; the counters are of the largest mark."""

    false_hits: dict[str, dict[int, MeanStd]]  # metric -> edits -> % of probes with a hit
    experts: Counter = field(default_factory=Counter)  # experts of a probe that hit -> probes
    strongest: Counter = field(default_factory=Counter)  # bin of STRENGTHS -> probes
    kept: Counter = field(default_factory=Counter)  # bin of SHARES -> probes
    margins: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def bin_names(borders: tuple[float, ...]) -> list[str]:
    """Name the bins between borders, in their order."""
    return [f"<{border:g}" for border in borders] + [f"≥{borders[-1]:g}"]


def _numbers(value) -> Iterable[float]:
    return value if isinstance(value, list) else () if value is None else (value,)


def _false_hits(run: Run, hits: Hits) -> dict[tuple[str, int], float]:
    """Compute the percentage of untargeted probes with a hit, by metric and mark.

    On the way, the margins of all probes at the largest mark are added to `hits`.
    """
    last = run.last["edits"]
    counts: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for line in run_lines(run, "cases.jsonl", CASE):
        if line["mark"] == last and "margin" in line:
            hits.margins[line["probe"]].extend(_numbers(line["margin"]))
        if line["probe"] in UNTARGETED:
            count = counts[line["probe"], line["mark"]]
            count[0] += line["hit_n"] > 0
            count[1] += 1
    return {key: 100 * hit_n / n for key, (hit_n, n) in counts.items()}


def count_hits(setup: Setup) -> Hits:
    """Count the hits in every run of a setup.

    Raises:
        ValueError: a line is damaged.
    """
    hits, shares = Hits({}), defaultdict(list)
    for run in setup.runs:
        for key, share in _false_hits(run, hits).items():
            shares[key].append(share)
    from_cases = bool(hits.margins)
    for run in setup.runs:
        for line in run_lines(run, "routes.jsonl", ROUTE):
            if line["mark"] != run.last["edits"]:
                continue
            if not from_cases and "margin" in line:
                hits.margins[line["probe"]].extend(_numbers(line["margin"]))
            if line["experts"]:
                strongest = max(weight for _, weight in line["experts"])
                hits.experts[min(len(line["experts"]), MOST_N)] += 1
                hits.strongest[bisect_right(STRENGTHS, strongest)] += 1
                hits.kept[bisect_right(SHARES, line["kept"])] += 1
    for (kind, edits), values in sorted(shares.items()):
        hits.false_hits.setdefault(kind, {})[edits] = mean_std(values)
    return hits
