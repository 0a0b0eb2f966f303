"""The lifelong evaluation of an open model on records: any editor, without the command line."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from liveedit_jax.data.records import Record
from liveedit_jax.evaluation.run import run_records
from liveedit_jax.model_io.model import load_model
from liveedit_jax.session.model import OpenModel


def evaluate(
    name: str,
    model: OpenModel | str | Path,
    records: Iterable[Record],
    marks: Sequence[int] = (1, 100),
    *,
    cases_n: int | None = None,
    out: str | Path | None = None,
    refine_n: int | None = None,
) -> dict:
    """Evaluate an editor over a stream of edits: all metrics after each number of edits.

        records = list(liveedit_jax.data.edit_stream("eval", seed=0, n=100))
        results = liveedit_jax.evaluate("liveedit", "tiny", records, marks=(1, 100))
        results["marks"][-1]["reliability"]  # after 100 edits

    At a mark of n edits the records are cut into chunks of n; each chunk begins with the unedited
    model, makes its edits in order and is asked all of its probes (`evaluation/engine.py`).

    Args:
        name: "liveedit" or a baseline (`evaluation.run.METHODS`).
        model: a model of `open_model`, a preset's name or a model folder.
        records: of `liveedit_jax.data.edit_stream` or `load_benchmark`; at least as many as the
            largest mark.
        marks: rising numbers of edits.
        cases_n: how many records marks below it count (None: all).
        out: a run folder to keep, with `results.json`, every answer, and a page; a run that was
            cut short goes on there. None: nothing is kept.
        refine_n: most steps of gradient descent on an edit of LiveEdit that does not take
            (`editor/refine.py`); None: as the model's config says, in all presets 0.

    Returns:
        What `results.json` holds: "unedited" and, in "marks", one entry a mark. Figures are
        percentages: teacher-forced token accuracy, and "exact_match" of free generation.

    Raises:
        KeyError: an unknown editor.
        FileNotFoundError: no such model, or it has no weights of this editor.
        ValueError: bad marks or records, a damaged model, or `out` holds another run.
    """
    begin = time.time()
    parts = model.parts if isinstance(model, OpenModel) else load_model(model, need_editor=False)
    stream = records if isinstance(records, Sequence) else list(records)
    if out is None:
        with tempfile.TemporaryDirectory(prefix="liveedit-") as folder:
            return run_records(
                name, parts, stream, marks, folder, begin, cases_n, refine_n=refine_n
            )
    from liveedit_jax.report.run_page import draw_run

    return run_records(name, parts, stream, marks, out, begin, cases_n, draw_run, refine_n)
