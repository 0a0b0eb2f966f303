"""Comparisons of finished runs: grouping, means, damaged folders, what fired, what failed."""

import json
import shutil
import statistics

import pytest

from liveedit_jax.cli import main
from liveedit_jax.evaluation.metrics import average_members
from liveedit_jax.report.compare import group_runs, load_run, table_rows
from liveedit_jax.report.gallery import pick_failures
from liveedit_jax.report.hits import count_hits
from tests.report.made_runs import write_run

AVERAGED = average_members("average")


def test_runs_that_differ_in_seed_only_are_one_setup(tmp_path):
    values = (90.0, 93.0, 94.5)
    runs = [
        load_run(write_run(tmp_path / f"s{seed}", seed, value)) for seed, value in enumerate(values)
    ]
    other = load_run(write_run(tmp_path / "other", 0, 50.0, backbone="smol"))
    setups = group_runs([*runs, other])
    assert [(s.name, len(s.runs)) for s in setups] == [
        ("tiny · E-VQA · LiveEdit", 3),
        ("smol · E-VQA · LiveEdit", 1),
    ]
    rows = {(r.backbone, r.editor, r.edits): r for r in table_rows(setups)}
    assert list(rows) == [
        *(("tiny", "liveedit", 1), ("tiny", "liveedit", 10)),
        *(("smol", "liveedit", 1), ("smol", "liveedit", 10)),
    ]
    found = rows["tiny", "liveedit", 10].values["reliability"]
    mean = (80 + 83 + 84.5) / 3
    assert found.mean == pytest.approx(mean)
    by_hand = (((80 - mean) ** 2 + (83 - mean) ** 2 + (84.5 - mean) ** 2) / 2) ** 0.5
    assert found.std == pytest.approx(by_hand) == pytest.approx(statistics.stdev((80, 83, 84.5)))
    exact = rows["tiny", "liveedit", 10].exact_match["reliability"]
    assert exact.mean == pytest.approx(mean - 20)
    assert rows["tiny", "liveedit", 10].values["look_alike"].mean == pytest.approx(mean - 10)
    alone = rows["smol", "liveedit", 1]
    assert alone.values["average"].mean == 52 and alone.values["average"].std is None
    assert alone.runs_n == 1 and alone.hit_n["look_alike"].mean == 9


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"split": "dev"}, "(split dev)"),
        ({"model": {"backbone": "b" * 64, "editor": "f" * 64}}, "(model bbbbbb/ffffff)"),
        ({"marks": [1, 10, 100]}, "(marks 1/10/100)"),
    ],
)
def test_any_other_difference_makes_another_setup_with_a_name_of_its_own(tmp_path, changes, says):
    runs = [load_run(write_run(tmp_path / "a")), load_run(write_run(tmp_path / "b", 1, **changes))]
    setups = group_runs(runs)
    assert len(setups) == 2 and setups[1].editor == f"liveedit {says}"
    assert len({(row.editor, row.edits) for row in table_rows(setups)}) == 4


def test_the_same_run_twice_is_refused(tmp_path):
    runs = [load_run(write_run(tmp_path / name)) for name in "ab"]
    with pytest.raises(ValueError, match="same settings and seed 0; give one of them"):
        group_runs(runs)


def edit_json(folder, name, change):
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


DAMAGE = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "unfinished": (lambda f: (f / "results.json").unlink(), "not finished: run its command again"),
    "cut off": (
        lambda f: (f / "results.json").write_text((f / "results.json").read_text()[:200]),
        "results.json is damaged or cut off",
    ),
    "another kind of file": (lambda f: (f / "results.json").write_text("[1]"), "not a JSON object"),
    "no settings": (lambda f: (f / "config.json").write_text("{}"), "lacks 'settings'"),
    "no seed": (
        lambda f: edit_json(f, "config.json", lambda v: v["settings"].pop("seed")),
        "config.json lacks 'seed'",
    ),
    "no metric": (
        lambda f: edit_json(f, "results.json", lambda v: v["marks"][1].pop("image_locality")),
        "marks[1] lacks 'image_locality'",
    ),
    "no number": (
        lambda f: edit_json(f, "results.json", lambda v: v["marks"][0].update(average="x")),
        "average = 'x'",
    ),
    "exact match that is no number": (
        lambda f: edit_json(
            f, "results.json", lambda v: v["marks"][0]["exact_match"].update(reliability="x")
        ),
        "exact_match has reliability = 'x'",
    ),
    "no marks": (lambda f: edit_json(f, "results.json", lambda v: v["marks"].clear()), "no marks"),
    "cut-off line": (
        lambda f: (f / "cases.jsonl").write_text((f / "cases.jsonl").read_text()[:-9]),
        "line 80 of cases.jsonl is damaged",
    ),
    "line without field": (
        lambda f: (f / "routes.jsonl").write_text('{"mark": 10}\n'),
        "line 1 of routes.jsonl lacks 'case'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_one_line_that_names_it(tmp_path, capsys, damage):
    folder = write_run(tmp_path / "hurt")
    ruin, says = DAMAGE[damage]
    ruin(folder)
    good = write_run(tmp_path / "good", 1)
    status = main(["report", str(good), str(folder), "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert status == 2 and out == "" and len(err.splitlines()) == 1
    assert str(folder) in err and says in err
    assert not (tmp_path / "out").exists()


def test_hits_are_counted_after_every_number_of_edits(tmp_path):
    runs = [load_run(write_run(tmp_path / f"{seed}", seed)) for seed in (0, 1)]
    hits = count_hits(group_runs(runs)[0])
    assert hits.false_hits["look_alike"][10].mean == 50
    assert hits.false_hits["look_alike"][10].std == 0
    assert hits.false_hits["image_locality"][1].mean == 0
    assert hits.experts == {2: 2 * (5 * 4 + 2)} and sum(hits.kept.values()) == 44
    assert not hits.margins


def test_failures_are_spread_over_kinds_and_runs(tmp_path):
    runs = [
        load_run(write_run(tmp_path / f"{seed}", seed, n=30, wrong=lambda _, p: p in AVERAGED))
        for seed in (0, 1)
    ]
    failures = pick_failures(runs)
    assert len(failures) == 24
    kinds = [failure.line["probe"] for failure in failures]
    assert {kinds.count(kind) for kind in AVERAGED} == {4, 6}
    assert {sum(f.run is run for f in failures) for run in runs} == {12}
    assert all(f.line["mark"] == 10 for f in failures)
    shown = next(f for f in failures if f.line["probe"] == "reliability")
    case = shown.line["case"]
    assert shown.experts[0] == (0.97, case, f"reliability {case}?", "red")
