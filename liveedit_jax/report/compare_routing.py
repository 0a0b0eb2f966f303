"""The routing section of a comparison: which experts fired, how often, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from liveedit_jax.evaluation.metrics import HIT_METRICS, label, title
from liveedit_jax.report.charts import (
    band_chart,
    bar_chart,
    cards,
    legend,
    linear_axis,
    nice_ceiling,
)
from liveedit_jax.report.compare import Row, Setup, points, rows_of
from liveedit_jax.report.hits import MOST_N, SHARES, STRENGTHS, UNTARGETED, Hits, bin_names
from liveedit_jax.report.seeds import MeanStd
from liveedit_jax.report.series import Series, Style
from liveedit_jax.report.tables import format_number

BINS_N = 10  # of a margin's histogram
COUNTS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (MOST_N, None))


def _hits_table(kinds: Sequence[str], hits: dict[str, Hits], last: dict[str, Row]) -> str:
    """Return the table of mean hits; in small print, the share of untargeted probes with a hit."""
    body = []
    for name, row in last.items():
        cells = ""
        for kind in kinds:
            share = hits[name].false_hits.get(kind, {}).get(row.edits, MeanStd(None))
            small = "" if share.mean is None else f"<small>{format_number(share)} % hit</small>"
            cells += f"<td>{format_number(row.hit_n[kind])}{small}</td>"
        body.append(f"<tr><th>{escape(name)}<small>{row.edits:,} edits</small></th>{cells}</tr>")
    head = "".join(f"<th>{escape(label(kind))}</th>" for kind in kinds)
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _share_chart(
    names: Sequence[str], counts: dict[str, list[int]], styles: dict[str, Style]
) -> str:
    groups = {
        name: (styles[name].colour, [100 * n / (sum(found) or 1) for n in found])
        for name, found in counts.items()
    }
    return bar_chart(names, groups, legend=False)


def _strengths(hits: dict[str, Hits], styles: dict[str, Style]) -> list[tuple[str, str]]:
    """Return histograms over probes that hit: experts, strongest weight, kept share of weight."""
    counted = {
        name: [
            sum(n for k, n in found.experts.items() if k >= a and (b is None or k <= b))
            for a, b in COUNTS
        ]
        for name, found in hits.items()
    }
    names = [str(a) if a == b else f"{a}+" if b is None else f"{a}–{b}" for a, b in COUNTS]
    charts = [
        ("Experts of a probe that hits (% of such probes)", _share_chart(names, counted, styles))
    ]
    for text, field, borders in (
        ("Weight of its strongest expert (%)", "strongest", STRENGTHS),
        ("Share of the weight that the applied experts keep (%)", "kept", SHARES),
    ):
        binned = {
            name: [getattr(found, field)[i] for i in range(len(borders) + 1)]
            for name, found in hits.items()
        }
        charts.append((text, _share_chart(bin_names(borders), binned, styles)))
    return charts


def _margins(hits: dict[str, Hits], styles: dict[str, Style]) -> str:
    """Return one histogram of margins per metric; empty where the lines hold none."""
    every = [value for found in hits.values() for kind in found.margins.values() for value in kind]
    if not every:
        return ""
    low, high = np.percentile(every, (0.5, 99.5))
    edges = np.linspace(low, high if high > low else low + 1, BINS_N + 1)
    names = [f"{middle:.2g}" for middle in (edges[1:] + edges[:-1]) / 2]
    charts = []
    for kind in HIT_METRICS:
        counts = {
            name: np.histogram(np.clip(found.margins[kind], edges[0], edges[-1]), edges)[0].tolist()
            for name, found in hits.items()
            if found.margins.get(kind)
        }
        if counts:
            charts.append((f"{label(kind)} (%)", _share_chart(names, counts, styles)))
    return (
        "<h2>Margin of the score over the sentinel</h2>" + legend({n: styles[n] for n in hits})
        + cards(charts) + '<p class="note">Above 0 an expert fires; the first and last bars hold'
        " what lies beyond.</p>"
    )  # fmt: skip


def routing_section(
    hits: dict[str, Hits], rows: Sequence[Row], setups: Sequence[Setup], styles: dict[str, Style]
) -> str:
    """Return the section: hits by metric, false hits against edits, and strength of the hits."""
    last = {setup.name: rows_of(setup, rows)[-1] for setup in setups if setup.name in hits}
    kinds = [k for k in HIT_METRICS if any(r.hit_n[k].mean is not None for r in last.values())]
    means = {
        name: (styles[name].colour, [row.hit_n[kind].mean or 0 for kind in kinds])
        for name, row in last.items()
    }
    high = nice_ceiling(max((value for _, values in means.values() for value in values), default=1))
    short, charts = [title(kind) for kind in kinds], []
    if kinds:
        charts.append(("Mean hits of a probe", bar_chart(short, means, high, "", legend=False)))
    for kind in UNTARGETED:
        lines = [
            Series(name, styles[name], points(found.false_hits.get(kind, {})))
            for name, found in hits.items()
        ]
        lines = [line for line in lines if line.points]
        if lines:
            top = max(mean + (std or 0) for line in lines for _, mean, std in line.points)
            text = f"False hits: {label(kind)} (% of probes)"
            charts.append((text, band_chart(lines, linear_axis(min(nice_ceiling(top), 100)))))
    if any(found.experts for found in hits.values()):
        charts += _strengths(hits, styles)
    return (
        f"<h2>Routing</h2>{legend({name: styles[name] for name in hits})}{cards(charts)}"
        f'<div class="card wide">{_hits_table(kinds, hits, last)}</div><p class="note">After the '
        "most edits where no number of edits is named. No edit is about a locality probe; but a "
        "question about the same picture is close to one, and there the weight of what fires "
        f"decides.</p>{_margins(hits, styles)}"
    )
