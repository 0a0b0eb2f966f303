"""A whole run: its files, killing and resuming it, refusing another run's folder."""

import json
import resource
import time
from dataclasses import replace

import jax
import pytest

from liveedit_jax.baselines.ft_l import FtL
from liveedit_jax.editor.as_editor import LiveEdit
from liveedit_jax.evaluation import engine
from liveedit_jax.evaluation.aggregate import folder_figures, read_lines
from liveedit_jax.evaluation.engine import Schedule
from liveedit_jax.evaluation.lifelong import evaluate
from liveedit_jax.evaluation.run_folder import open_run
from liveedit_jax.report.run_page import draw_run

SCHEDULE = Schedule((1, 3, 10), batch_n=8, block_n=4)
SETTINGS = {"config": "small", "seed": 0, "commit": "none", "marks": SCHEDULE.marks}
FIELDS = (
    "mark chunk case entity fact probe nth prompt target target_ids before_ids after_ids "
    "generated before_generated hit_n margin"
).split()
FILES = ("cases.jsonl", "routes.jsonl", "retention.jsonl")


@pytest.fixture(scope="module")
def run(parts, cases_of, retention, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    begin = time.time()
    done = evaluate(
        parts, cases_of(10), SCHEDULE, SETTINGS, out, begin, retention=retention, draw=draw_run
    )
    return out, done


def test_results_hold_every_figure_and_are_recomputable(run):
    out, results = run
    assert json.loads((out / "results.json").read_text()) == results
    assert [mark["edits"] for mark in results["marks"]] == [1, 3, 10]
    assert [mark["cases"] for mark in results["marks"]] == [10, 9, 10]
    again = folder_figures(out)
    assert again["unedited"] == results["unedited"]
    for mark, figures in zip(results["marks"], again["marks"], strict=True):
        assert {key: mark[key] for key in figures} == figures
        assert all(mark[key] > 0 for key in ("edit_ms", "add_ms", "query_ms"))
    for mark in results["marks"]:
        assert mark["retention"] is None and mark["retention_n"] == 0  # it knew nothing
    assert results["compile_n"] > 0
    assert results["seconds"] > 0
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # the process's, so far
    assert 0.1 < results["peak_rss_gb"] <= now


def test_small_marks_may_count_fewer_cases(run, parts, cases_of, tmp_path):
    schedule = Schedule(SCHEDULE.marks, 4, batch_n=8, block_n=4)
    results = evaluate(parts, cases_of(10), schedule, SETTINGS, tmp_path, time.time())
    assert [mark["cases"] for mark in results["marks"]] == [4, 3, 10]

    def lines(folder, at):
        keep = [x for x in read_lines(folder / "cases.jsonl") if (x["mark"], x["case"]) in at]
        return [{name: x[name] for name in x if name in FIELDS} for x in keep]

    at = {(1, c) for c in range(4)} | {(3, c) for c in range(3)} | {(10, c) for c in range(10)}
    assert lines(tmp_path, at) == lines(run[0], at) == list(read_lines(tmp_path / "cases.jsonl"))


def test_every_probe_is_a_line_with_the_listed_fields(run, cases_of):
    out, _ = run
    lines = list(read_lines(out / "cases.jsonl"))
    for line in lines:
        unasked = {"nth"} if not line.get("nth") else set()
        unasked |= {"margin"} if line["probe"] == "text_locality" else set()
        assert list(line) == [name for name in FIELDS if name not in unasked]
    per_case = [len(case.probes) for case in cases_of(10)]
    assert len(lines) == 2 * sum(per_case) + sum(per_case[:9])
    assert lines == sorted(lines, key=lambda x: (x["mark"], x["case"]))
    assert all(x["chunk"] == x["case"] // x["mark"] for x in lines)
    for line in lines:
        assert len(line["target_ids"]) == len(line["before_ids"]) == len(line["after_ids"])


def test_the_folder_has_a_figure_and_a_page_and_no_leftovers(run):
    out, _ = run
    assert (out / "metrics.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page and "<svg" in page and "http" not in page
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [*FILES, "config.json", "metrics.png", "report.html", "results.json"]
    )


@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_a_killed_run_resumes_to_the_same_files(
    run, parts, cases_of, retention, tmp_path, monkeypatch, stop_at
):
    calls, real = [], engine.ask

    def killed(*args):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(engine, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            parts, cases_of(10), SCHEDULE, SETTINGS, tmp_path, time.time(), retention=retention
        )
    assert not (tmp_path / "results.json").exists()
    monkeypatch.undo()
    results = evaluate(
        parts, cases_of(10), SCHEDULE, SETTINGS, tmp_path, time.time(), retention=retention
    )
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (run[0] / name).read_bytes()
    assert results["unedited"] == run[1]["unedited"]


def test_a_killed_run_of_an_editor_without_routes_resumes_inside_a_chunk(
    parts, cases_of, tmp_path, monkeypatch
):
    parts = replace(parts, editor=FtL(steps_n=3, learning_rate=3e-2), trained=None)
    whole = evaluate(
        parts, cases_of(6), Schedule((2, 6), batch_n=8, block_n=4), {}, tmp_path / "a", 0.0
    )
    calls, real = [], engine.ask

    def killed(*args):
        calls.append(1)
        if len(calls) == 5:  # the second block, in the state of six edits
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(engine, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            parts, cases_of(6), Schedule((2, 6), batch_n=8, block_n=4), {}, tmp_path / "b", 0.0
        )
    monkeypatch.undo()
    again = evaluate(
        parts, cases_of(6), Schedule((2, 6), batch_n=8, block_n=4), {}, tmp_path / "b", 0.0
    )
    assert again["marks"][0]["average"] == whole["marks"][0]["average"]
    assert all(mark["edit_ms"] > 0 and "add_ms" not in mark for mark in again["marks"])
    for name in FILES[:2]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_compilations_do_not_grow_with_edits(run, parts, cases_of, tmp_path):
    one = LiveEdit(replace(parts.editor.cfg, top_k=1))  # one shape of routes
    counts, parts = [], replace(parts, editor=one)
    for n in (6, 14):
        schedule = Schedule((1, n), batch_n=8, block_n=4)
        jax.clear_caches()
        settings = SETTINGS | {"n": n}
        counts.append(
            evaluate(parts, cases_of(n), schedule, settings, tmp_path / str(n), time.time())[
                "compile_n"
            ]
        )
    assert counts[0] == counts[1]


def test_another_runs_folder_is_refused(run, parts, cases_of):
    out, _ = run
    with pytest.raises(ValueError, match="other settings .different: seed."):
        evaluate(parts, cases_of(10), SCHEDULE, SETTINGS | {"seed": 1}, out, time.time())


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="not a folder"):
        open_run(tmp_path / "file", {})
