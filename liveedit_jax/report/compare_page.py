"""The page of a comparison: one self-contained HTML file, for screens of any width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from liveedit_jax.evaluation.metrics import head, label
from liveedit_jax.report.charts import band_chart, cards, error_axis, legend
from liveedit_jax.report.compare import COSTS, Row, Setup, display_name, points, rows_of
from liveedit_jax.report.compare_routing import routing_section
from liveedit_jax.report.gallery import Failure, gallery
from liveedit_jax.report.hits import Hits
from liveedit_jax.report.metric_sets import MetricSet, known_sets
from liveedit_jax.report.page_frame import PAGE
from liveedit_jax.report.series import Series, Style, style_of
from liveedit_jax.report.tables import (
    best_values,
    format_cost,
    format_number,
    group_blocks,
    is_best,
)

_STYLE = PAGE.partition("<style>")[2].partition("</style>")[0].format()
_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LiveEdit: {title}</title>
<style>{style}
.charts {{ grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)) }}
.charts + .charts, .charts + .card, .card + .charts {{ margin-top: 14px }}
.legend {{ margin: 0 0 12px; font-size: 13px }} .set {{ margin: 20px 0 8px }}
.wide + .wide {{ margin-top: 14px }}
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
{tables}
<p class="note">In percent, bold where it is the best of its block. Token accuracy is measured under
teacher forcing; exact match compares whole texts of free generation. Locality compares with the
model before editing. ± is the sample deviation over seeds.</p>
{body}
<h2>Runs</h2>
<div class="card wide">{runs}</div>
</main></body></html>
"""


def styles_of(setups: Sequence[Setup]) -> dict[str, Style]:
    """Assign a style to the lines of each setup, by its name; LiveEdit's are thicker."""
    return {
        setup.name: style_of(i, strong=setup.editor.startswith("liveedit"))
        for i, setup in enumerate(setups)
    }


def _table(rows: Sequence[Row], metrics: MetricSet) -> str:
    """Return a table in the paper's layout; names that repeat span their rows."""
    places = Counter((row.backbone, row.dataset) for row in rows)
    shown: set[tuple[str, str]] = set()
    body: list[str] = []
    for block in group_blocks(rows):
        most = best_values(block, metrics)
        for i, row in enumerate(block):
            heads, place = "", (row.backbone, row.dataset)
            if place not in shown:
                shown.add(place)
                span = f"rowspan={places[place]}"
                heads += "".join(f"<th {span}>{escape(display_name(name))}</th>" for name in place)
            if i == 0:
                heads += f"<th rowspan={len(block)}>{row.edits:,}</th>"
            cells = ""
            for name in metrics.names:
                figure = metrics.figure(row, name)
                mean, _, std = format_number(figure).partition(" ± ")
                strong = " class=strong" if is_best(figure, most.get(name)) else ""
                cells += f"<td{strong}>{mean}{f'<small>± {std}</small>' if std else ''}</td>"
            first = " class=first" if i == 0 and body else ""
            body.append(
                f"<tr{first}>{heads}<th>{escape(display_name(row.editor))}</th>{cells}</tr>"
            )
    names = "".join(f"<th class=left>{n}</th>" for n in ("Backbone", "Dataset", "Edits", "Editor"))
    heads = names + "".join(f"<th>{escape(head(name))}</th>" for name in metrics.names)
    return (
        f"<table class=figures><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _tables(rows: Sequence[Row]) -> str:
    """Return one table for each set of metrics that is known."""
    return "".join(
        f'<div class="card wide"><h3>{escape(metrics.title)}</h3>{_table(rows, metrics)}</div>'
        for metrics in known_sets(rows)
    )


def _curves(setups: Sequence[Setup], rows: Sequence[Row], styles: dict[str, Style]) -> str:
    """Return one chart per metric, with one line per setup that has several points.

    Where no setup has several, all are drawn.
    """
    own = {setup.name: rows_of(setup, rows) for setup in setups}
    drawn = {name: held for name, held in own.items() if len(held) > 1} or own
    parts = [legend({name: styles[name] for name in drawn})]
    for metrics in known_sets([row for held in drawn.values() for row in held]):
        charts = []
        for metric in metrics.names:
            lines = [
                Series(
                    name,
                    styles[name],
                    points({row.edits: metrics.figure(row, metric) for row in held}),
                )
                for name, held in drawn.items()
            ]
            charts.append((label(metric), band_chart(lines, error_axis(lines))))
        parts.append(f'<h3 class="set">{escape(metrics.title)}</h3>{cards(charts)}')
    note = (
        "Both axes are logarithmic: the vertical one in the error, so that halving it is the same "
        "step everywhere. Lines are moved a little to the side, so that equal points lie side by "
        "side, and lines that coincide are stacked."
    )
    if len(drawn) < len(own):
        note += " What was measured after one number of edits only is in the tables above."
    return f'<h2>Against the number of edits</h2>{"".join(parts)}<p class="note">{note}</p>'


def _costs(setups: Sequence[Setup], rows: Sequence[Row]) -> str:
    """Return the table of times and memory after the most edits; empty if nothing was measured."""
    body = []
    for setup in setups:
        row = rows_of(setup, rows)[-1]
        if all(row.costs[name].mean is None for name in COSTS):
            continue
        cells = "".join(f"<td>{format_cost(row, name)}</td>" for name in COSTS)
        body.append(f"<tr><th>{escape(setup.name)}</th><td>{row.edits:,}</td>{cells}</tr>")
    if not body:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("", "edits", *COSTS.values()))
    return (
        "<h2>What edits cost</h2><div class='card wide'><table><thead><tr>"
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        '<p class="note">One edit and one query, from tokens and pixels, on the machine of the run;'
        " memory is that of a state for just so many edits, shared out among them.</p>"
    )


def _runs(setups: Sequence[Setup]) -> str:
    body = []
    for setup in setups:
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


def comparison_page(
    setups: Sequence[Setup], rows: Sequence[Row], hits: dict[str, Hits], failures: list[Failure]
) -> str:
    """Return the whole page; `hits` has an entry for each setup that routes (no baseline does)."""
    styles = styles_of(setups)
    setup_of = {run.folder: setup.name for setup in setups for run in setup.runs}
    body = _curves(setups, rows, styles) + _costs(setups, rows)
    if hits:
        body += routing_section(hits, rows, setups, styles)
    if failures:
        body += (
            '<h2>Wrong answers</h2><p class="note">A sample after the most edits, in turn from '
            "every kind of question and every run. What fired is shown with its weight.</p><br>"
            f'<div class="examples">{gallery(failures, setup_of)}</div>'
        )
    runs_n, most = len(setup_of), max(row.edits for row in rows)
    return _FRAME.format(
        title=f"{runs_n} evaluations compared" if runs_n > 1 else "One evaluation",
        summary=f"{len(setups)} setups, up to {most:,} edits. Runs that differ in their seed "
        "only are one setup.",
        style=_STYLE,
        tables=_tables(rows),
        body=body,
        runs=_runs(setups),
    )
