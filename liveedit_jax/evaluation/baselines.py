"""A whole lifelong evaluation of one baseline, resumable part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from liveedit_jax.editors import Editor
from liveedit_jax.evaluation.carry_out import carry_out
from liveedit_jax.evaluation.chunks import counted_n
from liveedit_jax.evaluation.editors import parts_of
from liveedit_jax.evaluation.lifelong import Parts, Plan, block_n
from liveedit_jax.evaluation.probes import Case
from liveedit_jax.evaluation.run_folder import RunFolder
from liveedit_jax.evaluation.trial import Trial

BATCH_N = 16  # rows; after one edit there are few


def evaluate_baseline(
    parts: Parts,
    editor: Editor,
    trained: Any,
    cases: Sequence[Case],
    plan: Plan,
    settings: dict,
    out: str | Path,
    begin: float,
    pictures: Path | None = None,
) -> dict:
    """Run a baseline's protocol (or the rest of it) and write every file of the run folder.

    Args:
        parts: the model; its own editor is not used.
        editor: the baseline.
        trained: its weights, None where it has none.
        cases: the stream.
        plan: marks and portions.
        settings, out, begin, pictures: as `carry_out` takes them.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: bad marks, or `out` holds a run with other settings.
    """
    compute = partial(_compute, parts, editor, trained, cases, plan)
    return carry_out(compute, cases, plan.marks, settings, out, begin, pictures)


def _compute(
    parts: Parts,
    editor: Editor,
    trained: Any,
    cases: Sequence[Case],
    plan: Plan,
    folder: RunFolder,
    spent: Callable[[], float],
) -> None:
    subject = parts.subject(cases, BATCH_N)
    trial = Trial.of(subject, editor, trained)
    cases_n = plan.cases_n or len(cases)
    total = sum(counted_n(mark, cases_n) for mark in plan.marks)
    # every case is edited, and then asked about
    bar = tqdm(total=2 * total, desc="baseline", unit="step", dynamic_ncols=True)
    timing = folder.read("timing") or {}

    def done(name: str, counted: int) -> bool:
        bar.update(2 * counted if folder.has(name) else 0)
        return folder.has(name)

    size = block_n(subject, cases, plan.block_n)
    for part in parts_of(trial, cases, plan.marks, cases_n, size, done, bar.update):
        if part.costs is not None:
            timing[str(part.mark)] = part.costs
            folder.write("timing", timing)
        folder.write(part.name, {"lines": part.lines})
        folder.write("spent", {"seconds": spent()})
    bar.close()
