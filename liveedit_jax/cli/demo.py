"""`liveedit demo`: one edit to watch, then a thousand edits measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from liveedit_jax.cli import verbs, wording
from liveedit_jax.data.facts import entities
from liveedit_jax.data.images import drawing_png
from liveedit_jax.evaluation.run import RunSpec, format_table, run
from liveedit_jax.report.run_page import draw_run
from liveedit_jax.session import open_editor

SHOWN = "🦊"
PROMPT, REPHRASE, TARGET = "What is this called?", "What do you call this emoji?", "hot pepper"
OTHER = "Which category does this belong to?"


def run_demo(model: str, out: Path, repo: str | None, max_edits: int, marks: Sequence[int]) -> dict:
    """Edit one drawing, ask about it, then run the lifelong evaluation; returns its results.

    Args:
        model: preset name or model folder.
        out: where drawings and results go; a finished evaluation there is shown again.
        repo: repository folder of the one edit; None: one that is thrown away.
        max_edits: live edits that it may hold.
        marks: numbers of edits to measure at.
    """
    begin = time.time()
    out.mkdir(parents=True, exist_ok=True)
    entity = next(e for e in entities() if e.emoji == SHOWN)
    files = {}
    for source in ("twemoji", "openmoji"):
        files[source] = out / f"{entity.facts['name'].replace(' ', '-')}-{source}.png"
        files[source].write_bytes(drawing_png(entity, source, 240))
    with tempfile.TemporaryDirectory(prefix="liveedit-demo-") as scratch:
        _one_edit(model, repo or str(Path(scratch) / "repo"), max_edits, files)
    print(f"\nNow {max(marks):,} edits of the eval split, measured (progress below):", flush=True)
    spec = RunSpec(model=model, marks=tuple(marks))
    results = run(spec, out / "lifelong", begin, draw=draw_run)
    print("\ntoken accuracy in % (and exact match of free generation)\n" + format_table(results))
    print(
        f"\n{results['seconds']:.0f} s, peak memory {results['peak_rss_gb']:.2f} GB. "
        f"Pictures and examples: {out / 'lifelong' / 'report.html'}"
    )
    return results


def _one_edit(model: str, repo: str, max_edits: int, files: dict[str, Path]) -> None:
    image = files["twemoji"]
    print(f"$ liveedit edit --image {image} --prompt {PROMPT!r} --target {TARGET!r}")
    with open_editor(model, repo, write=True, max_edits=max_edits) as editor:
        result = editor.edit(image, PROMPT, TARGET)
        print(result.id, flush=True)
        if not result.took:
            verbs.note(wording.wrong_answer(result))
        for file, prompt in (
            (image, PROMPT),
            (image, REPHRASE),
            (files["openmoji"], PROMPT),
            (image, OTHER),
        ):
            print(f"$ liveedit ask --image {file} --prompt {prompt!r}")
            print(wording.answer(editor.ask(file, prompt)), flush=True)
