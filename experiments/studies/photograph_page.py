"""The page of a study of photographs: every picture with its questions and answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from experiments.studies.photograph_counts import KINDS, LABELS, TARGETED
from experiments.studies.photograph_folder import PhotographCase
from liveedit_jax.data.images import open_picture

SIDE = 240  # pixels of the longer side of a picture
FIRED_N = 3  # edits named per answer
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Edited photographs: {model}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #e3e7ee;
  --card: #fff; --page: #f5f7fa; --accent: #2f6bd8; --good: #157f5b; --bad: #b3324f; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8ecf4; --soft: #98a2b3;
  --line: #2c3444; --card: #1a202c; --page: #11151d; --accent: #7aa7ff; --good: #4cc596;
  --bad: #f0758f; }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }}
main {{ max-width: 1080px; margin: 0 auto; padding: 36px 20px 60px }}
h1 {{ margin: 0; font-size: 28px }} h2 {{ margin: 0; font-size: 19px }}
.note, figcaption, small {{ color: var(--soft) }}
.wide {{ overflow-x: auto }}
section, article {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px; margin: 18px 0 0 }}
article header {{ display: flex; gap: 14px; flex-wrap: wrap }}
figure {{ margin: 0; text-align: center; font-size: 12px }}
figure img {{ display: block; max-width: 100%; border-radius: 8px; background: #fff }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px }}
th, td {{ padding: 5px 7px; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere }}
th {{ color: var(--soft) }} td small {{ display: block }}
.target {{ color: var(--accent); font-weight: 600 }}
.good {{ color: var(--good) }} .bad {{ color: var(--bad) }}
summary {{ cursor: pointer; margin: 10px 0 }} a {{ color: inherit }}
</style></head><body><main>
<h1>Photographs edited by free questions</h1>
<p class="note">{model}: {n} photographs, one edit each, all in one repository.</p>
<section class="wide"><table><tbody>{shares}</tbody></table></section>
{articles}
</main></body></html>
"""


def _figure(data: bytes, caption: str) -> str:
    small = open_picture(data, short=SIDE).convert("RGB")
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, format="JPEG", quality=85)
    code = base64.b64encode(out.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/jpeg;base64,{code}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _escape_answer(text: str) -> str:
    return escape(text) if text.strip() else "<em>nothing</em>"


def _verdict(row: dict) -> tuple[str, str]:
    """Return the CSS class and the words for a judged answer."""
    if row["kind"] in TARGETED:
        return ("good", "right") if row["right"] else ("bad", "wrong")
    if not row["changed"]:
        return "good", "as before"
    name = row.get("target_of")
    return "bad", f"changed {row['became']}" + (f" ({name})" if name else "")


def _describe_fired(row: dict) -> str:
    named = [
        f"{escape(str(fired['case'] or fired['edit']))} ({fired['weight']:.2f})"
        for fired in row["fired"][:FIRED_N]
    ]
    more = row["hit_n"] - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "") if named else "none"


def _line(row: dict, asked: str) -> str:
    kind, words = _verdict(row)
    return (
        f"<tr><td>{asked}</td><td>{_escape_answer(row['before'])}</td>"
        f"<td class={kind}>{_escape_answer(row['after'])}<small>{escape(words)}</small></td>"
        f"<td>{_describe_fired(row)}</td></tr>"
    )


def _table(head: str, lines: Sequence[str]) -> str:
    return (
        f"<table><thead><tr><th>{head}</th><th>before</th><th>after</th>"
        f"<th>edits that fired (weight)</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _article(i: int, case: PhotographCase, asked: Sequence[dict], number_of: dict[str, int]) -> str:
    about = [row for row in asked if row["kind"] != "elsewhere"]
    elsewhere = [row for row in asked if row["kind"] == "elsewhere"]
    words = {
        "own": "the edit, asked back",
        "reworded": "in other words",
        "view": "about the view",
        "others": "another question",
    }
    here = [
        _line(row, f"{escape(row['prompt'])}<small>{words[row['kind']]}</small>") for row in about
    ]
    there = [
        _line(row, f'<a href="#case-{number_of[row["shown"]]}">{escape(row["shown"])}</a>')
        for row in elsewhere
    ]
    changed_n = sum(row["changed"] for row in elsewhere)
    folded = (
        f"<details><summary>The same question about {len(elsewhere)} other photographs: "
        f"{changed_n} answers changed</summary>{_table('photograph', there)}</details>"
    )
    return (
        f'<article id="case-{i}"><header>{_figure(case.picture, "edited")}'
        f"{_figure(case.view, 'view')}<div><h2>{escape(case.name)}</h2>"
        f'<p>{escape(case.question)}<br><span class="target">→ {escape(case.target)}</span></p>'
        f"</div></header>{_table('asked', here)}{folded if elsewhere else ''}</article>"
    )


def page(results: dict, cases: Sequence[PhotographCase]) -> str:
    """Return the self-contained page; everything from the folder is escaped.

    Args:
        results: the content of `results.json`.
        cases: the same cases, with their pictures.
    """
    rows = []
    for kind in KINDS:
        count = results["shares"][kind]
        share = "–" if count["share"] is None else f"{count['share']:.1f} %"
        became = "; ".join(f"{n} {words}" for words, n in count.get("became", {}).items())
        rows.append(
            f"<tr><td>{LABELS[kind]}<small>{became}</small></td><td><b>{share}</b></td>"
            f"<td>{count['n']} of {count['of']}</td></tr>"
        )
    number_of = {case.name: i for i, case in enumerate(cases)}
    articles = [
        _article(i, case, shown["asked"], number_of)
        for i, (case, shown) in enumerate(zip(cases, results["cases"], strict=True))
    ]
    return PAGE.format(
        model=escape(str(results["model"])),
        n=len(cases),
        shares="".join(rows),
        articles="".join(articles),
    )
