"""Result files of a run in the layout of the released evaluation.

    FOLDER/single_edit/results.json                             one record a case
    FOLDER/sequential_edit_N/results.json                       the same, a list for each chunk
    .../mean_results.json                                       means of all, and of each chunk
    (seed_S_results.json, seed_S_mean_results.json              if the order was shuffled)

Accuracies are shares, not percentages, and predictions are the teacher-forced tokens decoded.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from liveedit_jax.evaluation.aggregate import read_lines
from liveedit_jax.evaluation.metrics import EDIT, forced_accuracy, is_targeted
from liveedit_jax.evaluation.run_folder import write_atomic

PLACES = {
    "text_generality": ("generality", "text_rephrase"),
    "image_generality": ("generality", "image_rephrase"),
    "text_locality": ("locality", "text_loc"),
    "image_locality": ("locality", "image_loc"),
}
Decode = Callable[[Sequence[int]], str]


def make_record(lines: dict[str, dict], decode: Decode, edit_s: float) -> dict:
    """Build one case's record.

    Args:
        lines: the case's lines of `cases.jsonl`, by probe.
        decode: turns token ids into text.
        edit_s: seconds that an edit takes.
    """

    def said(line: dict) -> dict:
        found = {"prompt": line["prompt"], "image": line.get("image"), "target": line["target"]}
        if not is_targeted(line["probe"]):
            found["predict_before_edit"] = decode(line["before_ids"])
        found["predict_after_edit"] = decode(line["after_ids"])
        return found | {"acc": forced_accuracy(line)}

    record: dict = {"generality": {}, "locality": {}}
    for probe, (group, name) in PLACES.items():
        if probe in lines:
            record[group][name] = [said(lines[probe])]
    return {"reliability": [said(lines[EDIT]) | {"edit_time": edit_s}]} | record


def average_records(records: Sequence[dict]) -> dict:
    """Average every number of the records."""

    def mean(entries: list[dict]) -> dict:
        numbers = defaultdict(list)
        for entry in entries:
            for name, value in entry.items():
                if isinstance(value, (int, float)):
                    numbers[name].append(value)
        return {name: fmean(values) for name, values in numbers.items()}

    found = {"reliability": mean([entry for r in records for entry in r["reliability"]])}
    for group in ("generality", "locality"):
        names = dict.fromkeys(name for record in records for name in record[group])
        found[group] = {
            name: mean([entry for r in records for entry in r[group].get(name, ())])
            for name in names
        }
    return found


def write_released(run: Path, folder: Path, decode: Decode, seed: int | None = None) -> None:
    """Write the result files of every mark.

    Args:
        run: the folder of a finished run.
        folder: the folder to write into.
        decode: turns token ids into text.
        seed: the seed of the shuffled order; None where the cases come in the file's order.
    """
    results = json.loads((run / "results.json").read_text("utf-8"))
    seconds = {mark["edits"]: mark["edit_ms"] / 1000 for mark in results["marks"]}
    cases: dict[int, dict[int, dict[int, dict]]] = {}
    for line in read_lines(run / "cases.jsonl"):
        chunk = cases.setdefault(line["mark"], {}).setdefault(line["chunk"], {})
        chunk.setdefault(line["case"], {})[line["probe"]] = line
    prefix = "" if seed is None else f"seed_{seed}_"
    for mark, chunks in cases.items():
        split = [
            [make_record(lines, decode, seconds[mark]) for _, lines in sorted(chunk.items())]
            for _, chunk in sorted(chunks.items())
        ]
        every = [record for chunk in split for record in chunk]
        content: list
        if mark == 1:
            where, content = folder / "single_edit", every
            mean = average_records(every) | {"sample_count": len(every)}
        else:
            where, content = folder / f"sequential_edit_{mark}", split
            parts = [average_records(chunk) | {"sequential_edit_n": len(chunk)} for chunk in split]
            total = average_records(every) | {"total_edit_n": len(every)}
            mean = {"total_mean": total, "split_mean": parts}
        where.mkdir(parents=True, exist_ok=True)
        for name, value in (("results", content), ("mean_results", mean)):
            text = json.dumps(value, indent=1, ensure_ascii=False)
            write_atomic(where / f"{prefix}{name}.json", text + "\n")
