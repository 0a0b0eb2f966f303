"""A whole lifelong evaluation, resumable: from cases to the files of a run folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from liveedit_jax.evaluation.aggregate import folder_figures
from liveedit_jax.evaluation.chunks import check_marks
from liveedit_jax.evaluation.compiles import count_compiles
from liveedit_jax.evaluation.costs import peak_rss_gb
from liveedit_jax.evaluation.engine import Engine, Plan
from liveedit_jax.evaluation.probes import Case
from liveedit_jax.evaluation.run_folder import RunFolder, open_run, write_atomic, write_lines
from liveedit_jax.evaluation.subject import Parts

Draw = Callable[[dict, Sequence[Case], Path], None]


def evaluate(
    parts: Parts,
    cases: Sequence[Case],
    plan: Plan,
    settings: dict,
    out: str | Path,
    begin: float,
    pictures: Path | None = None,
    kept: Case | None = None,
    draw: Draw | None = None,
) -> dict:
    """Evaluate an editor (or the rest of it) and write every file of the run folder.

    Args:
        parts: the model and the editor.
        cases: the stream.
        plan: marks and portions.
        settings: what makes two runs the same run (config, seed, checkpoint, cases); written to
            `config.json`. A folder that holds another run is refused.
        out: the run folder.
        begin: `time.time()` at the start of the process.
        pictures: the folder of a benchmark's pictures, noted for reports.
        kept: questions about what no edit touches (evaluation/retention.py).
        draw: called with the results, the stream and the run folder, before `results.json` says
            that the run is finished.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: bad marks, or `out` holds a run with other settings.
    """
    check_marks(plan.marks, len(cases))
    folder = open_run(out, settings, pictures)
    finished = folder.path / "results.json"
    if finished.is_file():
        return json.loads(finished.read_text("utf-8"))
    earlier = (folder.read("spent") or {}).get("seconds", 0.0)

    def spent() -> float:
        return earlier + time.time() - begin

    with count_compiles() as compiles:
        costs = _compute(parts, cases, plan, kept, folder, spent)
    for name, part, key in (
        ("routes", "block", "routes"),
        ("cases", "block", "lines"),
        *([("retention", "retention", "lines")] if kept else []),
    ):
        write_lines(folder.path / f"{name}.jsonl", _lines(folder, plan.marks, part, key))
    results = {
        **{name: settings.get(name) for name in ("config", "seed", "commit")},
        "seconds": None,
        "peak_rss_gb": None,
        "compile_n": compiles.n,
        **folder_figures(folder.path),
    }
    for entry in results["marks"]:
        entry |= costs[entry["edits"]]
    results["seconds"] = spent()
    results["peak_rss_gb"] = peak_rss_gb()
    if draw is not None:
        draw(results, cases, folder.path)
    write_atomic(finished, json.dumps(results, indent=1) + "\n")
    shutil.rmtree(folder.work)
    return results


def _compute(
    parts: Parts,
    cases: Sequence[Case],
    plan: Plan,
    kept: Case | None,
    folder: RunFolder,
    spent: Callable[[], float],
) -> dict[int, dict[str, float]]:
    """Write the parts that are not there, and return what edits cost at every mark."""
    # after few edits there are few rows in each state of an editor that does not route
    batch_n = plan.batch_n if parts.editor.routes else plan.batch_n // 2
    costs = {int(mark): found for mark, found in (folder.read("timing") or {}).items()}
    every = cases if kept is None else [*cases, kept]
    engine = Engine(parts.subject(every, batch_n), cases, plan, folder.has, costs, kept=kept)
    with tqdm(total=engine.work_n, desc="lifelong", unit_scale=True, dynamic_ncols=True) as bar:
        engine.tick = bar.update
        for part in engine.parts():
            folder.write("timing", engine.costs)
            folder.write(part.name, {"lines": part.lines, "routes": part.routes})
            folder.write("spent", {"seconds": spent()})
    return engine.costs


def _lines(folder: RunFolder, marks: Sequence[int], name: str, key: str) -> Iterator[dict]:
    """Read the lines of all finished parts of a name, mark by mark."""
    for mark in marks:
        for part in folder.parts(f"{name}_{mark:06d}"):
            yield from part[key]
