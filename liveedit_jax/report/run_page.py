"""`report.html` of one run: a self-contained page of its figures and examples."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from liveedit_jax.data.images import open_picture, picture_bytes
from liveedit_jax.evaluation.aggregate import read_lines
from liveedit_jax.evaluation.metrics import (
    AVERAGES,
    BY_NAME,
    EDIT,
    GROUPS,
    ORDER,
    UNGROUPED,
    exact_match,
    figure_of,
    group_members,
    is_targeted,
    label,
)
from liveedit_jax.evaluation.probes import Case, key_of
from liveedit_jax.report.charts import band_chart, bar_chart, error_axis, legend
from liveedit_jax.report.figure import draw_metrics, panels
from liveedit_jax.report.page_frame import PAGE

EXAMPLES_N = 12
OF_METRIC_N = 2  # an example shows at most so many questions of one metric
THUMBNAIL = 160  # pixels of the longer side
BINS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, None))
SHOWN = (*UNGROUPED, *AVERAGES, *(name for group in GROUPS for name in group_members(group)))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def figures_table(results: dict) -> str:
    """Return the table: one row unedited and one per mark, with exact match in small print.

    Metrics that the benchmark does not have are left out.
    """
    rows = [("unedited", results["unedited"])]
    rows += [(f"{mark['edits']:,} edits", mark) for mark in results["marks"]]
    shown = [name for name in SHOWN if any(figure_of(row, name) is not None for _, row in rows)]
    heads = [label(name) for name in shown]
    heads += ["hits mean / max", "kept min", "edit ms", "add ms", "query ms"]
    body = []
    for name, row in rows:
        cells = []
        for metric in shown:
            value = _percent(figure_of(row, metric))
            if metric in AVERAGES:
                cells.append(f"<td class=strong>{value}</td>")
            else:
                small = _percent(row["exact_match"].get(metric))
                cells.append(f"<td>{value}<small>{small}</small></td>")
        cells.append(f"<td>{row['hit_n_mean']:.2f} / {row['hit_n_max']}</td>")
        cells.append(f"<td>{row['kept_min']:.3f}</td>")
        cells += [
            f"<td>{row[key]:.2f}</td>" if key in row else "<td>–</td>"
            for key in ("edit_ms", "add_ms", "query_ms")
        ]
        body.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def hit_chart(counts: dict[str, Counter]) -> str:
    """Plot how many experts a probe hits, for probes that should hit and that should not.

    Args:
        counts: group ("about an edit" or not) -> number of experts hit -> probes.
    """
    names = [str(a) if a == b else f"{a}+" if b is None else f"{a}–{b}" for a, b in BINS]
    groups = {}
    for group, colour in (("about an edit", "#2f6bd8"), ("not about an edit", "#d9822b")):
        total = sum(counts[group].values()) or 1
        groups[group] = (
            colour,
            [
                100 * sum(n for hits, n in counts[group].items()
                          if hits >= a and (b is None or hits <= b)) / total
                for a, b in BINS
            ],
        )  # fmt: skip
    return bar_chart(names, groups)


def inline_picture(image: bytes | Path | None, caption: str) -> str:
    """Return an inline thumbnail of a picture, with its caption; empty without a picture."""
    if image is None:
        return ""
    small = open_picture(picture_bytes(image), short=THUMBNAIL).convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    forms = {}
    for form in ("png", "jpeg"):  # drawings are smaller as PNG, photographs as JPEG
        data = io.BytesIO()
        small.save(data, format=form)
        forms[form] = data.getvalue()
    form, shorter = min(forms.items(), key=lambda made: len(made[1]))
    code = base64.b64encode(shorter).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/{form};base64,{code}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _shown(image: bytes | Path | None, caption: str) -> str:
    """Return `inline_picture`, or the caption alone where the picture has gone since."""
    try:
        return inline_picture(image, caption)
    except (ValueError, OSError):
        return f"<figure><figcaption>{escape(caption)} (damaged or missing)</figcaption></figure>"


def select_lines(lines: Sequence[dict]) -> list[dict]:
    """Select a case's lines about pictures, in the order of METRICS.

    Of several probes of one metric at most OF_METRIC_N are shown, the wrong ones first.
    """
    found = defaultdict(list)
    for line in lines:
        if BY_NAME[line["probe"]].has_picture:
            found[line["probe"]].append(line)
    order = sorted(found, key=ORDER.__getitem__)
    return [line for name in order for line in sorted(found[name], key=exact_match)[:OF_METRIC_N]]


def example_article(
    case: Case, lines: Sequence[dict], routes: dict[tuple, dict], by_case: dict
) -> str:
    """Return the article of one edit: its pictures, its request, the answers before and after."""
    edit = next(line for line in lines if line["probe"] == EDIT)
    views = case.probes_of("image_generality")
    rows = []
    fired: dict[int, float] = {}
    for line in select_lines(lines):
        metric, good = BY_NAME[line["probe"]], exact_match(line) == 1
        experts = routes.get(key_of(line), {}).get("experts", [])
        fired |= dict(experts) if metric.averages and is_targeted(metric.name) else {}
        weights = ", ".join(f"#{c} ({w:.2f})" for c, w in experts[:4]) or "none"
        weights += f" and {len(experts) - 4} more" if len(experts) > 4 else ""
        rows.append(
            f"<tr><td>{escape(metric.question)}<small>{escape(line['prompt'])}</small></td>"
            f"<td>{escape(line['before_generated']) or '<em>nothing</em>'}</td>"
            f"<td class={'good' if good else 'bad'}>"
            f"{escape(line['generated']) or '<em>nothing</em>'}</td><td>{weights}</td></tr>"
        )
    named = "; ".join(
        f"#{c}: {escape(by_case[c]['prompt'])} → {escape(by_case[c]['target'])}"
        for c in sorted(fired, key=lambda c: c != edit["case"])[:4]
        if c in by_case
    )
    return (
        f"<article><header>{_shown(case.edit.image, 'edited')}"
        f"{_shown(views[0].image if views else None, 'another view')}"
        f"<div><b>#{edit['case']} · {escape(str(edit['entity']))} · {escape(edit['fact'])}</b>"
        f"<p>{escape(edit['prompt'])}</p><p class=target>→ {escape(edit['target'])}</p></div>"
        f"</header><table class=answers><thead><tr><th>asked</th><th>before</th><th>after</th>"
        f"<th>experts (weight)</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        + (f"<p class=fired>fired on the edit: {named}</p>" if named else "")
        + "</article>"
    )


def draw_run(results: dict, cases: Sequence[Case], folder: Path) -> None:
    """Write `metrics.png` and `report.html` of a run into its folder."""
    draw_metrics(results, folder / "metrics.png")
    write_report(results, cases, folder)


def write_report(results: dict, cases: Sequence[Case], folder: Path) -> None:
    """Write `report.html`; reads the cases and routes in the run's folder."""
    largest = results["marks"][-1]
    cases_n, mark = largest["cases"], largest["edits"]
    picked = sorted({int(i) for i in np.linspace(0, cases_n - 1, min(EXAMPLES_N, cases_n))})
    lines: dict[int, list[dict]] = defaultdict(list)
    routes: dict[tuple, dict] = {}
    by_case: dict[int, dict[str, str]] = {}
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for line in read_lines(folder / "cases.jsonl"):
        if line["mark"] != mark:
            continue
        if line["case"] in picked:
            lines[line["case"]].append(line)
        if line["probe"] == EDIT:
            by_case[line["case"]] = {"prompt": line["prompt"], "target": line["target"]}
        if BY_NAME[line["probe"]].has_picture:
            group = "about an edit" if is_targeted(line["probe"]) else "not about an edit"
            counts[group][line["hit_n"]] += 1
    for line in read_lines(folder / "routes.jsonl"):
        if line["mark"] == mark and line["case"] in picked:
            routes[key_of(line)] = line
    charts = "".join(
        f"<section class=card><h3>{escape(title)}</h3>{band_chart(lines, error_axis(lines))}"
        f"{legend({line.name: line.style for line in lines})}</section>"
        for title, lines in panels(results)
    )
    cost = f"{results['seconds']:,.0f} s, {results['peak_rss_gb']:.2f} GB at most, "
    html = PAGE.format(
        title=f"{mark:,} edits",
        summary=(
            f"config {escape(str(results['config']))}, seed {results['seed']}, commit "
            f"{escape(str(results['commit']))}: {cost}{results['compile_n']} compiled programs."
        ),
        headline=_percent(largest["average"]),
        headline_note=f"average of the five metrics at {mark:,} edits",
        exact=_percent(largest["exact_match"][EDIT]),
        exact_note="of the edits come back word for word in free generation",
        table=figures_table(results),
        charts=charts,
        hits=hit_chart(counts),
        hits_title=f"Experts hit by a probe at {mark:,} edits (% of probes)",
        examples="".join(example_article(cases[c], lines[c], routes, by_case) for c in picked),
    )
    (folder / "report.html").write_text(html, encoding="utf-8")
