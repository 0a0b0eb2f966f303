"""A run from its folder to its last file, whatever computes its lines; resumable."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from liveedit_jax.evaluation.aggregate import folder_figures
from liveedit_jax.evaluation.chunks import check_marks
from liveedit_jax.evaluation.compiles import count_compiles
from liveedit_jax.evaluation.figure import draw_metrics
from liveedit_jax.evaluation.probes import Case
from liveedit_jax.evaluation.report import write_report
from liveedit_jax.evaluation.run_folder import RunFolder, open_run, write_atomic, write_lines


def carry_out(
    compute: Callable[[RunFolder, Callable[[], float]], None],
    cases: Sequence[Case],
    marks: Sequence[int],
    settings: dict,
    out: str | Path,
    begin: float,
    pictures: Path | None = None,
) -> dict:
    """Compute the parts of a run (or the rest of them) and write every file of its folder.

    Args:
        compute: writes the parts that are not there: `block_...` (`lines`, and `routes` where an
            editor routes), and `timing` by mark. It is given the folder, and what says how many
            seconds the run has taken.
        cases: the stream.
        marks: numbers of edits.
        settings: what makes two runs the same run (config, seed, checkpoint, cases); written to
            `config.json`. A folder that holds another run is refused.
        out: the run folder.
        begin: `time.time()` at the start of the process.
        pictures: the folder of a benchmark's pictures, noted for reports.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: bad marks, or `out` holds a run with other settings.
    """
    check_marks(marks, len(cases))
    folder = open_run(out, settings, pictures)
    finished = folder.path / "results.json"
    if finished.is_file():
        return json.loads(finished.read_text("utf-8"))
    earlier = (folder.read("spent") or {}).get("seconds", 0.0)

    def spent() -> float:
        return earlier + time.time() - begin

    with count_compiles() as compiles:
        compute(folder, spent)
    _assemble(folder, marks)
    results = {
        **{name: settings.get(name) for name in ("config", "seed", "commit")},
        "seconds": None,
        "peak_rss_gb": None,
        "compile_n": compiles.n,
        **folder_figures(folder.path),
    }
    times = folder.read("timing")
    for entry in results["marks"]:
        entry |= times[str(entry["edits"])]
    draw_metrics(results, folder.path / "metrics.png")
    write_report(results, cases, folder.path)
    results["seconds"] = spent()
    results["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    write_report(results, cases, folder.path)
    write_atomic(finished, json.dumps(results, indent=1) + "\n")
    shutil.rmtree(folder.work)
    return results


def _assemble(folder: RunFolder, marks: Sequence[int]) -> None:
    """The final JSON-lines files, mark by mark, out of the finished parts."""

    def every(key: str) -> Iterator[dict]:
        for mark in marks:
            for part in folder.parts("block_"):
                yield from (line for line in part.get(key, ()) if line["mark"] == mark)

    write_lines(folder.path / "routes.jsonl", every("routes"))
    write_lines(folder.path / "cases.jsonl", every("lines"))
