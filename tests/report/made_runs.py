"""Made-up run folders, as a finished evaluation leaves them."""

import json

from liveedit_jax.evaluation.metrics import (
    GROUPS,
    METRICS,
    average_members,
    group_members,
    is_targeted,
)

ALWAYS = [metric.name for metric in METRICS if metric.always]


def entry(edits, value):
    return {
        "edits": edits,
        "cases": 4,
        **{name: value + i for i, name in enumerate(average_members("average"))},
        "average": value + 2,
        "exact_match": {metric.name: value - 20 for metric in METRICS},
        **{group: dict.fromkeys(group_members(group), value - 10) for group in GROUPS},
        "hit_n_by_probe": {name: float(i) for i, name in enumerate(ALWAYS)},
    }


def cases(mark, n, wrong, extra=None):
    for case in range(n):
        for probe in ALWAYS:
            good = "red" if is_targeted(probe) else "before"
            yield {
                **{"mark": mark, "case": case, "entity": f"e{case}", "fact": "colour"},
                **{"probe": probe, "prompt": f"{probe} {case}?", "target": "red"},
                "before_generated": "before",
                "generated": "<b>bad</b> & odd" if wrong(case, probe) else good,
                "hit_n": int(is_targeted(probe) or (probe == "look_alike" and case % 2)),
                **(extra or {}),
            }


def write_lines(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(folder, seed=0, value=90.0, n=4, wrong=lambda *_: False, **changes):
    """A run folder of marks 1 and 10 as an evaluation leaves it."""
    folder.mkdir(parents=True)
    settings = {
        **{"config": "tiny", "dataset": "evqa", "backbone": None, "editor": None},
        **{"model": {"backbone": "b" * 64, "editor": "e" * 64}, "split": "eval", "seed": seed},
        **{"marks": [1, 10], "cases_n": n, "commit": "c" * 40},
    } | changes
    (folder / "config.json").write_text(json.dumps({"sha256": "", "settings": settings}))
    results = {
        "seconds": 1.5,
        "marks": [entry(1, value), entry(10, value - 10)],
    }
    (folder / "results.json").write_text(json.dumps(results))
    lines = [*cases(1, n, lambda *_: False), *cases(10, n, wrong)]
    write_lines(folder / "cases.jsonl", lines)
    routes = [
        {k: line[k] for k in ("mark", "case", "probe")}
        | {"experts": [[line["case"], 0.97], [0, 0.2]], "kept": 1.0}
        for line in lines
        if line["hit_n"]
    ]
    write_lines(folder / "routes.jsonl", routes)
    return folder
