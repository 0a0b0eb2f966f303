"""A sample of a comparison's wrong answers over runs and metrics, with their pictures."""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from liveedit_jax.evaluation.cases import stream_cases
from liveedit_jax.evaluation.metrics import BY_NAME, EDIT, ORDER, exact_match, is_targeted
from liveedit_jax.evaluation.probes import Case, key_of
from liveedit_jax.report.compare import Run, run_lines
from liveedit_jax.report.run_page import inline_picture

SHOWN_N = 24
SIDE = 60  # pixels a side of a drawing made again
FIRED_N = 3  # experts listed per answer
TEXT_N = 160  # characters shown of one text
CASE = (
    *("mark", "case", "entity", "fact", "probe", "hit_n"),
    *("prompt", "target", "generated", "before_generated"),
)
ROUTE = ("mark", "case", "probe", "experts")
EDIT_FIELDS = ("prompt", "target", "image", "image_sha256")
PICTURE_MOST = 2**26  # bytes
REDRAWN_MOST = 50_000  # edits of a stream that is drawn again


Shown = list[tuple[str, bytes | Path | None]]  # captions, and pictures of probes


@dataclass
class Failure:
    """One wrong answer after the most edits, with its experts and pictures."""

    run: Run
    line: dict  # of cases.jsonl
    experts: list[tuple[float, int, str, str]]  # weight, case, its prompt, its target
    pictures: Shown


def _sample_order(line: dict) -> tuple[int, int]:
    """Return a pseudo-random sort key, so that the sample is not all of early edits."""
    return zlib.crc32(f"{line['case']} {line['probe']}".encode()), line["case"]


def _find_wrong(run: Run, most_n: int) -> tuple[dict[str, list[dict]], dict[int, dict]]:
    """Collect up to `most_n` wrong lines per metric, and every edit's prompt, target and image."""
    wrong: dict[str, list[dict]] = defaultdict(list)
    edits: dict[int, dict] = defaultdict(lambda: {"prompt": "", "target": ""})
    for line in run_lines(run, "cases.jsonl", CASE):
        if line["mark"] != run.last["edits"]:
            continue
        if line["probe"] == EDIT:
            edits[line["case"]] = {name: line.get(name) for name in EDIT_FIELDS}
        if line["probe"] in ORDER and exact_match(line) == 0:
            kept = wrong[line["probe"]]
            kept.append(line)
            if len(kept) >= 4 * most_n:
                wrong[line["probe"]] = sorted(kept, key=_sample_order)[:most_n]
    return {kind: sorted(lines, key=_sample_order)[:most_n] for kind, lines in wrong.items()}, edits


def _redraw(run: Run, cases: Sequence[int]) -> dict[int, Case]:
    """Draw the pictures of a MojiEdit run's cases again; empty where that is not possible."""
    if run.dataset != "mojiedit" or not cases:
        return {}
    try:
        n = max(run.settings["cases_n"], *run.settings["marks"])
        if n > REDRAWN_MOST:
            return {}
        stream = stream_cases(run.settings["split"], run.settings["seed"] or 0, n, SIDE)
        return {case: stream[case] for case in cases}
    except (ValueError, LookupError, TypeError, OSError, ImportError, RuntimeError):
        return {}  # the page does without pictures


def _pictures(line: dict, case: Case | None) -> Shown:
    """Return the edited picture and, where another was asked about, that one."""
    if case is None:
        return []
    probes = case.probes_of(line["probe"])[line.get("nth", 0) :]
    if not probes or (case.entity, probes[0].prompt) != (line["entity"], line["prompt"]):
        return []  # the stream has changed since the run
    probe, edited = probes[0], case.edit.image
    shown: Shown = [("edited", edited)]
    if probe.image is not None and probe.image != edited:
        shown.append(("asked about", probe.image))
    return shown


def _files(folder: Path, line: dict, edit: dict) -> Shown:
    """Return the same of a benchmark whose pictures are (or were) in `folder`.

    Whoever made the run has chosen that folder, too. So a picture is shown only where it is the one
    that the run was made with, by the sha256 of its bytes: nobody can have a private one shown.
    """
    named = [("edited", edit), ("asked about", line)]
    if edit.get("image") == line.get("image"):
        named = named[:1]
    shown: Shown = []
    for caption, of in named:
        data = _read_known(folder, of.get("image"), of.get("image_sha256"))
        if data is not None:
            shown.append((caption, data))
    return shown


def _read_known(folder: Path, name: str | None, sha256: str | None) -> bytes | None:
    """Read a picture of this name and sha256 in a folder; None where there is no such one."""
    try:
        file = (folder / (name or "")).resolve()
        if not file.is_relative_to(folder.resolve()) or not file.is_file():
            return None
        with file.open("rb") as opened:
            data = opened.read(PICTURE_MOST)
    except (OSError, ValueError):  # it has gone, or no system could have such a name
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def pick_failures(runs: Sequence[Run], most_n: int = SHOWN_N) -> list[Failure]:
    """Pick at most `most_n` wrong answers, in turn from every metric and every run.

    Raises:
        ValueError: a line is damaged.
    """
    found = [_find_wrong(run, most_n) for run in runs]
    turns = [
        (place, i, line)
        for i, (wrong, _) in enumerate(found)
        for lines in wrong.values()
        for place, line in enumerate(lines)
    ]
    turns.sort(key=lambda turn: (turn[0], ORDER[turn[2]["probe"]], turn[1]))
    chosen: dict[int, list[dict]] = defaultdict(list)
    for _, i, line in turns[:most_n]:
        chosen[i].append(line)
    failures = []
    for i, lines in chosen.items():
        run, edits = runs[i], found[i][1]
        keys = {key_of(line) for line in lines}
        routes = {
            key_of(route): route["experts"]
            for route in run_lines(run, "routes.jsonl", ROUTE)
            if route["mark"] == run.last["edits"] and key_of(route) in keys
        }
        drawn = _redraw(run, sorted({line["case"] for line in lines}))
        for line in lines:
            fired = sorted(
                ((weight, c) for c, weight in routes.get(key_of(line), ())),
                reverse=True,
            )
            experts = [(w, c, edits[c]["prompt"], edits[c]["target"]) for w, c in fired]
            shown = _pictures(line, drawn.get(line["case"]))
            if run.pictures is not None:
                shown = _files(run.pictures, line, edits[line["case"]])
            failures.append(Failure(run, line, experts, shown))
    failures.sort(key=lambda failure: ORDER[failure.line["probe"]])
    return failures


def _text(text: str) -> str:
    """Shorten and escape a text; an empty one reads "nothing"."""
    text = text.strip()
    return escape(text if len(text) <= TEXT_N else text[: TEXT_N - 1] + "…") or "<em>nothing</em>"


def _inline_pictures(failure: Failure) -> str:
    """Return the pictures as inline images; empty if one of them cannot be read."""
    try:
        return "".join(inline_picture(image, caption) for caption, image in failure.pictures)
    except (ValueError, TypeError, OSError):
        return ""


def _describe_case(run: Run, line: dict) -> str:
    """Name the order, the case's number in it and, where the benchmark has facts, the fact."""
    seed, fact = run.settings["seed"], line["fact"]
    order = "the file's order" if seed is None else f"seed {seed}"
    return f"{order}, case #{line['case']}" + (f" ({_text(fact)})" if fact else "")


def gallery(failures: Sequence[Failure], setup_of: dict) -> str:
    """Return the articles of the page; `setup_of` maps a run's folder to its setup's name."""
    articles = []
    for failure in failures:
        line, run = failure.line, failure.run
        about = is_targeted(line["probe"])
        wanted = "the edit's target" if about else "the answer as it was"
        fired = [
            f"<li><b>{weight:.3f}</b> edit #{case}{' (its own)' if case == line['case'] else ''}"
            + (f": {_text(prompt)} → {_text(target)}" if prompt else "")
            + "</li>"
            for weight, case, prompt, target in failure.experts[:FIRED_N]
        ]
        more = len(failure.experts) - len(fired)
        fired += [f"<li>and {more} more</li>"] if more > 0 else []
        # without routes only the number of hits is known
        nothing = "nothing" if not line["hit_n"] else f"{line['hit_n']} experts"
        rows = (
            ("asked", _text(line["prompt"]), ""),
            ("target" if about else "true answer", _text(line["target"]), ""),
            ("before", _text(line["before_generated"]), "" if about else "good"),
            ("after", _text(line["generated"]), "bad"),
            ("fired", f"<ul>{''.join(fired)}</ul>" if fired else nothing, ""),
        )
        body = "".join(f"<tr><th>{n}</th><td class='{c}'>{v}</td></tr>" for n, v, c in rows)
        kind, name = BY_NAME[line["probe"]].question, setup_of[run.folder]
        articles.append(
            f'<article data-kind="{escape(line["probe"])}"><header>'
            f"{_inline_pictures(failure)}<div>"
            f"<b>{escape(kind)}</b><p class=note>should be {wanted}</p>"
            f"<p class=note>{escape(name)}, {_describe_case(run, line)}</p></div></header>"
            f"<table class=answers><tbody>{body}</tbody></table></article>"
        )
    return "".join(articles)
