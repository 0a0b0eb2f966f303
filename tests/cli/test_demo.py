"""The demo and the lifelong evaluation end to end, on random weights of the real shapes."""

import json

import pytest

from liveedit_jax.cli.demo import run_demo
from liveedit_jax.evaluation.run import RunSpec, parse_marks, run


def test_the_demo_runs_and_leaves_its_results(model_folder, tmp_path, capsys):
    results = run_demo(str(model_folder), tmp_path, None, 10, (1, 3))
    out = capsys.readouterr().out
    assert "$ liveedit edit" in out and "before:" in out and "3 edits" in out
    assert [mark["edits"] for mark in results["marks"]] == [1, 3]
    assert results["marks"][0]["text_locality"] == 100.0  # no image, no hit
    folder = tmp_path / "lifelong"
    assert json.loads((folder / "results.json").read_text()) == results
    assert (folder / "report.html").stat().st_size > 10_000
    lines = [json.loads(line) for line in (folder / "cases.jsonl").open()]
    assert {line["mark"] for line in lines} == {1, 3}
    assert all(line["hit_n"] == 0 for line in lines if line["probe"] == "text_locality")


def test_what_no_stream_has_is_refused(model_folder, tmp_path):
    for marks, says in (((5, 2), "rising"), ((20_000,), "offers 1 to 10080")):
        with pytest.raises(ValueError, match=says):
            run(RunSpec(model=str(model_folder), marks=marks), tmp_path, 0.0)
    with pytest.raises(ValueError, match="cases=0: give 1 or more"):
        run(RunSpec(model=str(model_folder), marks=(1,), cases_n=0), tmp_path, 0.0)
    with pytest.raises(ValueError, match="give numbers of edits"):
        parse_marks("1,many")
