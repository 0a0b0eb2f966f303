"""The page of a comparison: one self-contained HTML file for any screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np

from liveedit_jax.evaluation.charts import Line, bands, bars, nice
from liveedit_jax.evaluation.compare import COLUMNS, Row, Setup, title
from liveedit_jax.evaluation.figure import label
from liveedit_jax.evaluation.gallery import Failure, gallery
from liveedit_jax.evaluation.hits import MOST_N, SHARES, SPARED, STRENGTHS, Hits, bin_names
from liveedit_jax.evaluation.page import PAGE
from liveedit_jax.evaluation.probes import ALWAYS
from liveedit_jax.evaluation.seeds import Figure
from liveedit_jax.evaluation.tables import HEADS, best, blocks, is_best, number

COLOURS = (
    *("#3b7de0", "#e07b28", "#1c9c86", "#b05cd6", "#d9476a", "#a08a00", "#6f8f2a", "#7f8ba3"),
    *("#2aa3c9", "#c2543d", "#5d6ee0", "#c24fa0"),
)
BINS_N = 10  # of a margin's histogram
COUNTS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (MOST_N, None))
SHOWN = tuple(kind for kind in ALWAYS if kind != "text_locality")  # the kinds that can hit
_STYLE = PAGE.partition("<style>")[2].partition("</style>")[0].format()
_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LiveEdit: {title}</title>
<style>{style}
.charts {{ grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)) }}
.charts + .charts, .charts + .card, .card + .charts {{ margin-top: 14px }}
.legend {{ margin: 0 0 12px; font-size: 13px }}
.names th, .names td {{ text-align: left }}
.figures th[rowspan] {{ border-bottom: 0 }} .figures td {{ white-space: nowrap }}
.figures td small {{ display: inline; margin-left: 4px }} .figures .left {{ text-align: left }}
.figures .first > * {{ border-top: 2px solid var(--line) }}
th small {{ display: block; color: var(--soft); font-size: 11.5px; font-weight: 400 }}
.answers th {{ width: 84px; color: var(--soft); font-weight: 400 }}
.answers ul {{ margin: 0; padding-left: 16px }} article .note {{ font-size: 12px }}
.card + .note, .charts + .note {{ margin-top: 8px }}
article header > div {{ min-width: 0; overflow-wrap: anywhere }} code {{ overflow-wrap: anywhere }}
@media (max-width: 480px) {{ main {{ padding: 22px 12px 40px }} h1 {{ font-size: 23px }}
.card, article {{ padding: 12px }} .wide table {{ font-size: 13px }}
.wide th, .wide td {{ padding: 6px 5px }} .wide tbody th {{ white-space: normal }} }}
</style></head><body><main>
<h1>{title}</h1>
<p class="summary">{summary}</p>
<h2>Figures</h2>
<div class="card wide">{table}</div>
<p class="note">Teacher-forced token accuracy in percent, bold where it is the best of its block.
Locality compares with the model before editing. ± is the sample deviation over
seeds.</p>
{body}
<h2>Runs</h2>
<div class="card wide">{runs}</div>
</main></body></html>
"""


def _table(rows: Sequence[Row]) -> str:
    """The paper's layout, names that repeat spanning their rows."""
    places = Counter((row.backbone, row.dataset) for row in rows)
    shown, body = set(), []
    for block in blocks(rows):
        most = best(block)
        for i, row in enumerate(block):
            heads, place = "", (row.backbone, row.dataset)
            if place not in shown:
                shown.add(place)
                span = f"rowspan={places[place]}"
                heads += "".join(f"<th {span}>{escape(title(name))}</th>" for name in place)
            if i == 0:
                heads += f"<th rowspan={len(block)}>{row.edits:,}</th>"
            cells = ""
            for name in COLUMNS:
                mean, _, std = number(row.values[name]).partition(" ± ")
                strong = " class=strong" if is_best(row, name, most) else ""
                cells += f"<td{strong}>{mean}{f'<small>± {std}</small>' if std else ''}</td>"
            first = " class=first" if i == 0 and body else ""
            body.append(f"<tr{first}>{heads}<th>{escape(title(row.editor))}</th>{cells}</tr>")
    names = "".join(f"<th class=left>{n}</th>" for n in ("Backbone", "Dataset", "Edits", "Editor"))
    head = names + "".join(f"<th>{name}</th>" for name in HEADS)
    return (
        f"<table class=figures><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


def _legend(colours: dict[str, str]) -> str:
    spans = (
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<div class="legend">{"".join(spans)}</div>'


def _cards(charts: Sequence[tuple[str, str]]) -> str:
    cards = (f'<section class="card"><h3>{escape(n)}</h3>{c}</section>' for n, c in charts)
    return f'<div class="charts">{"".join(cards)}</div>'


def _points(figures: dict[int, Figure]) -> list[tuple[int, float, float | None]]:
    return [(n, f.mean, f.std) for n, f in sorted(figures.items()) if f.mean is not None and n > 0]


def _curves(setups: Sequence[Setup], rows: Sequence[Row], colours: dict[str, str]) -> str:
    """One chart a metric, one line a setup; a setup with one point has no curve."""
    own = {
        setup.name: [
            row
            for row in rows
            if (row.backbone, row.dataset, row.editor)
            == (setup.backbone, setup.dataset, setup.editor)
        ]
        for setup in setups
    }
    several = {name: held for name, held in own.items() if len(held) > 1}
    drawn = several or own
    charts = []
    for metric in COLUMNS:
        lines = [
            Line(name, colours[name], _points({row.edits: row.values[metric] for row in held}))
            for name, held in drawn.items()
        ]
        least = [mean - (std or 0) for line in lines for _, mean, std in line.points]
        low = min(90, max(0, 10 * int(min(least, default=0) // 10)))
        charts.append((label(metric), bands([line for line in lines if line.points], low)))
    note = "The axis of edits is logarithmic; the other starts at what is lowest, in tens."
    if len(drawn) < len(own):
        note += " What was measured after one number of edits only is in the table above."
    legend = _legend({name: colours[name] for name in drawn})
    return f'<h2>Against the number of edits</h2>{legend}{_cards(charts)}<p class="note">{note}</p>'


def _last(setup: Setup, rows: Sequence[Row]) -> Row:
    names = (setup.backbone, setup.dataset, setup.editor)
    return [row for row in rows if (row.backbone, row.dataset, row.editor) == names][-1]


def _hits_table(hits: dict[str, Hits], last: dict[str, Row]) -> str:
    """Mean hits of every kind and, in small print, how many of the spared kinds were hit."""
    body = []
    for name, row in last.items():
        cells = ""
        for kind in SHOWN:
            share = hits[name].false_hits.get(kind, {}).get(row.edits, Figure(None))
            small = "" if share.mean is None else f"<small>{number(share)} % hit</small>"
            cells += f"<td>{number(row.hit_n[kind])}{small}</td>"
        body.append(f"<tr><th>{escape(name)}<small>{row.edits:,} edits</small></th>{cells}</tr>")
    head = "".join(f"<th>{escape(label(kind))}</th>" for kind in SHOWN)
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _counted(names: Sequence[str], counts: dict[str, list[int]], colours: dict[str, str]) -> str:
    groups = {
        name: (colours[name], [100 * n / (sum(found) or 1) for n in found])
        for name, found in counts.items()
    }
    return bars(names, groups, legend=False)


def _strengths(hits: dict[str, Hits], colours: dict[str, str]) -> list[tuple[str, str]]:
    """Histograms of the probes that hit: how many experts, how strong, how much was kept."""
    counted = {
        name: [
            sum(n for k, n in found.experts.items() if k >= a and (b is None or k <= b))
            for a, b in COUNTS
        ]
        for name, found in hits.items()
    }
    names = [str(a) if a == b else f"{a}+" if b is None else f"{a}–{b}" for a, b in COUNTS]
    charts = [
        ("Experts of a probe that hits (% of such probes)", _counted(names, counted, colours))
    ]
    for text, field, borders in (
        ("Weight of its strongest expert (%)", "strongest", STRENGTHS),
        ("Share of the weight that the applied experts keep (%)", "kept", SHARES),
    ):
        binned = {
            name: [getattr(found, field)[i] for i in range(len(borders) + 1)]
            for name, found in hits.items()
        }
        charts.append((text, _counted(bin_names(borders), binned, colours)))
    return charts


def _margins(hits: dict[str, Hits], colours: dict[str, str]) -> str:
    """One histogram a kind where the lines hold margins."""
    every = [value for found in hits.values() for kind in found.margins.values() for value in kind]
    if not every:
        return ""
    low, high = np.percentile(every, (0.5, 99.5))
    edges = np.linspace(low, high if high > low else low + 1, BINS_N + 1)
    names = [f"{middle:.2g}" for middle in (edges[1:] + edges[:-1]) / 2]
    charts = []
    for kind in SHOWN:
        counts = {
            name: np.histogram(np.clip(found.margins[kind], edges[0], edges[-1]), edges)[0].tolist()
            for name, found in hits.items()
            if found.margins.get(kind)
        }
        if counts:
            charts.append((f"{label(kind)} (%)", _counted(names, counts, colours)))
    return (
        "<h2>Margin of the score over the sentinel</h2>" + _legend({n: colours[n] for n in hits})
        + _cards(charts) + '<p class="note">Above 0 an expert fires; the first and last bars hold'
        " what lies beyond.</p>"
    )  # fmt: skip


def _routing(
    hits: dict[str, Hits], rows: Sequence[Row], setups: Sequence[Setup], colours: dict[str, str]
) -> str:
    """Who fired: hits per kind, false hits against edits, strength of the hits."""
    last = {setup.name: _last(setup, rows) for setup in setups if setup.name in hits}
    means = {
        name: (colours[name], [row.hit_n[kind].mean or 0 for kind in SHOWN])
        for name, row in last.items()
    }
    high = nice(max((value for _, values in means.values() for value in values), default=1))
    short = ["edit", "text gen.", "img. gen.", "img. loc.", "same img.", "look-al."]
    charts = [("Mean hits of a probe", bars(short, means, high, "", legend=False))]
    for kind in SPARED:
        lines = [
            Line(name, colours[name], _points(found.false_hits.get(kind, {})))
            for name, found in hits.items()
        ]
        lines = [line for line in lines if line.points]
        if lines:
            top = max(mean + (std or 0) for line in lines for _, mean, std in line.points)
            text = f"False hits: {label(kind)} (% of probes)"
            charts.append((text, bands(lines, 0, min(nice(top), 100))))
    if any(found.experts for found in hits.values()):
        charts += _strengths(hits, colours)
    return (
        f"<h2>Routing</h2>{_legend({name: colours[name] for name in hits})}{_cards(charts)}"
        f'<div class="card wide">{_hits_table(hits, last)}</div><p class="note">After the most '
        "edits where no number of edits is named. No edit is about the last three kinds; a "
        "question about the same picture is close to one, and the weight of what fires then "
        f"decides.</p>{_margins(hits, colours)}"
    )


def _runs(setups: Sequence[Setup], hits: dict[str, Hits]) -> str:
    body = []
    for setup in setups:
        if setup.name not in hits:
            continue
        for run in setup.runs:
            commit = str(run.settings.get("commit") or "–")
            seconds = run.results.get("seconds")
            cells = (
                run.folder.name, run.settings["seed"], run.settings["split"],
                f"{run.last.get('cases', '–')}", commit[:10],
                f"{seconds:,.0f}" if isinstance(seconds, int | float) else "–",
            )  # fmt: skip
            texts = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
            body.append(f"<tr><th>{escape(setup.name)}</th>{texts}</tr>")
    heads = ("", "folder", "seed", "split", "cases", "commit", "seconds")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f"<table class=names><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


def page(
    setups: Sequence[Setup], rows: Sequence[Row], hits: dict[str, Hits], failures: list[Failure]
) -> str:
    """The whole page; `hits` has the setups with routes (a baseline has none)."""
    colours = {setup.name: COLOURS[i % len(COLOURS)] for i, setup in enumerate(setups)}
    setup_of = {run.folder: s.name for s in setups if s.name in hits for run in s.runs}
    body = _curves(setups, rows, colours) + _routing(hits, rows, setups, colours)
    if failures:
        body += (
            '<h2>Wrong answers</h2><p class="note">A sample after the most edits, in turn from '
            "every kind of question and every run. What fired is shown with its weight.</p><br>"
            f'<div class="examples">{gallery(failures, setup_of)}</div>'
        )
    runs_n, most = len(setup_of), max(row.edits for row in rows)
    return _FRAME.format(
        title=f"{runs_n} evaluations compared" if runs_n > 1 else "One evaluation",
        summary=f"{len(hits)} setups, up to {most:,} edits. Runs that differ in their seed only "
        "are one setup.",
        style=_STYLE,
        table=_table(rows),
        body=body,
        runs=_runs(setups, hits),
    )
