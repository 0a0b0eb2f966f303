"""A whole lifelong evaluation: from cases to the files of a run folder. It can be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from liveedit_jax.evaluation.aggregate import folder_figures
from liveedit_jax.evaluation.chunks import check_marks
from liveedit_jax.evaluation.compiles import count_compiles
from liveedit_jax.evaluation.costs import peak_rss_gb
from liveedit_jax.evaluation.engine import Engine, Schedule
from liveedit_jax.evaluation.probes import Case
from liveedit_jax.evaluation.run_folder import RunFolder, open_run, write_atomic, write_lines
from liveedit_jax.evaluation.subject import ModelParts

Draw = Callable[[dict, Sequence[Case], Path], None]


def evaluate(
    parts: ModelParts,
    cases: Sequence[Case],
    schedule: Schedule,
    settings: dict,
    out: str | Path,
    begin: float,
    pictures: Path | None = None,
    retention: Case | None = None,
    draw: Draw | None = None,
) -> dict:
    """Evaluate an editor and write every file of the run folder.

    An unfinished run with the same settings is resumed; a finished one is only read.

    Args:
        parts: the model and the editor.
        cases: the stream.
        schedule: the marks, and the sizes of batches and blocks.
        settings: what identifies the run (config, seed, checkpoint, cases); written to
            `config.json`. A folder that holds a run with other settings is refused.
        out: the run folder.
        begin: `time.time()` at the start of the process.
        pictures: the folder of a benchmark's pictures, noted for reports.
        retention: questions about what no edit touches (evaluation/retention.py).
        draw: draws figures and pages; called with the results, the stream and the run folder
            before `results.json` is written, which marks the run as finished.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: bad marks, or `out` holds a run with other settings or is in use.
    """
    check_marks(schedule.marks, len(cases))
    with open_run(out, settings, pictures) as folder:
        finished = folder.path / "results.json"
        if finished.is_file():
            return json.loads(finished.read_text("utf-8"))
        results = _evaluate(parts, cases, schedule, settings, folder, begin, retention, draw)
        write_atomic(finished, json.dumps(results, indent=1) + "\n")
        folder.finish()
        return results


def _evaluate(
    parts: ModelParts,
    cases: Sequence[Case],
    schedule: Schedule,
    settings: dict,
    folder: RunFolder,
    begin: float,
    retention: Case | None,
    draw: Draw | None,
) -> dict:
    """Compute a run and write all files but `results.json`, whose content it returns."""
    earlier = (folder.read("spent") or {}).get("seconds", 0.0)

    def spent() -> float:
        return earlier + time.time() - begin

    with count_compiles() as compiles:
        costs = _compute(parts, cases, schedule, retention, folder, spent)
    for name, part, key in (
        ("routes", "block", "routes"),
        ("cases", "block", "lines"),
        *([("retention", "retention", "lines")] if retention else []),
    ):
        write_lines(folder.path / f"{name}.jsonl", _lines(folder, schedule.marks, part, key))
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
    return results


def _compute(
    parts: ModelParts,
    cases: Sequence[Case],
    schedule: Schedule,
    retention: Case | None,
    folder: RunFolder,
    spent: Callable[[], float],
) -> dict[int, dict[str, float]]:
    """Compute and save the missing parts; returns the costs at every mark."""
    # An editor that does not route answers few rows in each state: smaller batches waste less.
    batch_n = schedule.batch_n if parts.editor.routes else schedule.batch_n // 2
    costs = {int(mark): found for mark, found in (folder.read("timing") or {}).items()}
    every = cases if retention is None else [*cases, retention]

    def is_done(name: str) -> bool:
        """A mark's first block comes with its costs and with the retention questions."""
        _, mark, first = name.split("_")
        also = int(first) > 0 or int(mark) in costs
        if retention is not None and int(first) == 0:
            also = also and folder.has(f"retention_{mark}")
        return also and folder.has(name)

    engine = Engine(
        parts.subject(every, batch_n), cases, schedule, is_done, costs, retention=retention
    )
    with tqdm(total=engine.work_n, desc="lifelong", unit_scale=True, dynamic_ncols=True) as bar:
        engine.tick = bar.update
        for part in engine.parts():
            folder.write("timing", engine.costs)
            folder.write(part.name, {"lines": part.lines, "routes": part.routes})
            folder.write("spent", {"seconds": spent()})
    return engine.costs


def _lines(folder: RunFolder, marks: Sequence[int], name: str, key: str) -> Iterator[dict]:
    """Yield the lines of all finished parts of a name, mark by mark."""
    for mark in marks:
        for part in folder.parts(f"{name}_{mark:06d}"):
            yield from part[key]
