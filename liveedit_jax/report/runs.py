"""The comparison of finished runs: a page, a figure, tables, and all numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from liveedit_jax.evaluation.run_folder import write_atomic
from liveedit_jax.report import tables
from liveedit_jax.report.compare import (
    Row,
    Setup,
    group_runs,
    load_run,
    table_rows,
)
from liveedit_jax.report.compare_figure import draw_comparison
from liveedit_jax.report.compare_page import comparison_page, styles_of
from liveedit_jax.report.gallery import pick_failures
from liveedit_jax.report.hits import SHARES, STRENGTHS, Hits, bin_names, count_hits


def _numbers(setups: Sequence[Setup], rows: Sequence[Row], hits: dict[str, Hits]) -> dict:
    """Return the content of comparison.json."""
    return {
        "setups": [
            {
                "name": setup.name,
                "backbone": setup.backbone,
                "dataset": setup.dataset,
                "editor": setup.editor,
                "runs": [
                    {
                        "folder": run.folder.name,
                        "seed": run.settings["seed"],
                        "commit": run.settings.get("commit"),
                    }
                    for run in setup.runs
                ],
                "marks": [run.results["marks"] for run in setup.runs],
            }
            for setup in setups
        ],
        "rows": [asdict(row) for row in rows],
        "routing": {
            name: {
                "false_hits": {
                    kind: {edits: asdict(share) for edits, share in shares.items()}
                    for kind, shares in found.false_hits.items()
                },
                "experts": dict(sorted(found.experts.items())),
                "strongest": {n: found.strongest[i] for i, n in enumerate(bin_names(STRENGTHS))},
                "kept": {n: found.kept[i] for i, n in enumerate(bin_names(SHARES))},
            }
            for name, found in hits.items()
        },
    }


def report_runs(folders: Sequence[str | Path], out: str | Path) -> tuple[str, list[Path]]:
    """Write report.html, comparison.png and .json, table.tex and table.md into `out`.

    Args:
        folders: the folders of finished runs.
        out: the folder to write into.

    Returns:
        The Markdown table and the files written.

    Raises:
        ValueError: a folder holds no complete run, a run is given twice, or `out` is a file or
            one of the runs.
    """
    out, runs = Path(out), [load_run(folder) for folder in folders]
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is not a folder; give another --out")
    if any(run.folder.resolve() == out.resolve() for run in runs):
        raise ValueError(f"{out} is one of the runs; give another --out")
    setups = group_runs(runs)
    rows = table_rows(setups)
    hits = {setup.name: count_hits(setup) for setup in setups if setup.routes}
    table = tables.markdown(rows) + tables.costs_markdown(rows)
    html = comparison_page(setups, rows, hits, pick_failures(runs))
    texts = {
        "report.html": html,
        "table.tex": tables.latex(rows),
        "table.md": table,
        "comparison.json": json.dumps(_numbers(setups, rows, hits), indent=1, ensure_ascii=False)
        + "\n",
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomic(out / name, text)
    picture = out / "comparison.png"
    draw_comparison(setups, rows, styles_of(setups), picture)
    return table, [*(out / name for name in texts), picture]
