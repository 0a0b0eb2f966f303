"""The study of photographs: what is counted, what is refused, and a small run."""

import html
import json
import re
import sys

import pytest
from PIL import Image, ImageDraw

from experiments.studies import photographs
from experiments.studies.photograph_counts import (
    ANOTHER,
    ELSE,
    KINDS,
    OWN,
    SHOWN,
    judge_answer,
    list_probes,
)
from experiments.studies.photograph_counts import count_shares as counted
from experiments.studies.photograph_folder import PhotographCase, read_cases

COLOURS = ("red", "teal", "gold")
QUESTIONS = ("What is <this>?", "Who lives here?", "How old is it?")


def case(i, **changes):
    fields = {
        "name": COLOURS[i],
        "question": QUESTIONS[i],
        "target": f"target {i}",
        "rephrase": f"In other words {i}?",
        "others": [f"Is it {i}?", "Is it & so?"],
    }
    return fields | changes


def folder_of(folder, cases):
    """A folder as the study reads it, with drawn pictures."""
    folder.mkdir(exist_ok=True)
    for i, colour in enumerate(COLOURS):
        for name, left in ((colour, 5), (f"{colour}-view", 25)):
            picture = Image.new("RGB", (60, 40), "white")
            ImageDraw.Draw(picture).ellipse((left, 5, left + 30, 35 - i), fill=colour)
            picture.save(folder / f"{name}.jpg")
    (folder / "cases.json").write_text(json.dumps(cases))
    return folder


def in_memory(*cases):
    return [
        PhotographCase(**{**fields, "others": tuple(fields["others"])}, picture=b"p", view=b"v")
        for fields in cases
    ]


def test_everything_is_asked_once():
    cases = in_memory(case(0), case(1), case(2))
    probes = list_probes(cases)
    asked = [(probe.kind, probe.case, probe.shown, probe.prompt) for probe in probes]
    assert len(asked) == len(set(asked)) == 3 * (3 + 2 + 2)
    assert [a for a in asked if a[0] == "elsewhere" and a[1] == 1] == [
        ("elsewhere", 1, 0, "Who lives here?"),
        ("elsewhere", 1, 2, "Who lives here?"),
    ]
    some = [probe for probe in list_probes(cases, 1) if probe.kind == "elsewhere"]
    assert len(some) == 3 and some == [p for p in list_probes(cases, 1) if p.kind == "elsewhere"]
    assert not [probe for probe in list_probes(cases, 0) if probe.kind == "elsewhere"]


def test_a_photograph_that_was_taught_the_same_question_is_not_another_one():
    cases = in_memory(case(0), case(1, rephrase=" WHAT is <this>? "), case(2))
    elsewhere = [(p.case, p.shown) for p in list_probes(cases) if p.kind == "elsewhere"]
    assert elsewhere == [(0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


def test_shares_of_a_table_of_answers():
    cases = in_memory(case(0), case(1), case(2))
    after = {
        ("own", 0): "target 0 ", ("own", 1): "target 0", ("own", 2): "Target 2",
        ("reworded", 0): "target 0", ("reworded", 1): "target 1", ("reworded", 2): "",
        ("view", 0): "as ever", ("view", 1): "as ever", ("view", 2): "as ever",
        ("others", 0): "target 0", ("others", 1): "target 2", ("others", 2): "as ever",
        ("elsewhere", 0, 1): "target 0", ("elsewhere", 0, 2): "target 2",
        ("elsewhere", 1, 0): "target 2", ("elsewhere", 1, 2): "nonsense",
        ("elsewhere", 2, 0): "as ever", ("elsewhere", 2, 1): " as ever",
    }  # fmt: skip

    def said(probe):
        key = (probe.kind, probe.case)
        return after[(*key, probe.shown) if probe.kind == "elsewhere" else key]

    rows = [judge_answer(cases, p, "as ever", said(p)) for p in list_probes(cases)]
    found = counted(rows)
    assert list(found) == list(KINDS)
    assert found["own"] == {"share": 33.33, "n": 1, "of": 3}
    assert found["reworded"] == {"share": 66.67, "n": 2, "of": 3}
    assert found["view"] == {"share": 0.0, "n": 0, "of": 3}
    assert (found["others"]["n"], found["others"]["of"]) == (4, 6)
    assert found["others"]["became"] == {OWN: 2, ANOTHER: 2, ELSE: 0}
    assert (found["elsewhere"]["n"], found["elsewhere"]["of"]) == (4, 6)
    assert found["elsewhere"]["became"] == {OWN: 1, SHOWN: 1, ANOTHER: 1, ELSE: 1}
    named = [row.get("target_of") for row in rows if row["kind"] == "elsewhere"]
    assert named == ["red", "gold", "gold", None, None, None]
    nothing = counted([row for row in rows if row["kind"] == "own"])["elsewhere"]
    assert nothing["share"] is None and nothing["of"] == 0


def without(field):
    return {k: v for k, v in case(0).items() if k != field}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cases.json is missing"),
        ("[{", "cases.json is not valid JSON"),
        ("{}", "has to be a list of cases, it is dict"),
        ("[]", "cases.json has no cases"),
        (["red"], "case 0 has to be an object"),
        ([case(1), without("rephrase")], "case 1: field 'rephrase' is missing"),
        ([without("others")], "field 'others' is missing"),
        ([case(0, others="Is it?")], "'others' has to be a list"),
        ([case(0, others=[""])], "question in 'others' is empty"),
        ([case(0, others=[QUESTIONS[0]])], "'others' has the edit's own question"),
        ([case(0, target=3)], "the target is not a string"),
        ([case(0, name="../red")], "the name '../red' cannot be a file's"),
        ([case(0, name="blue")], "(blue): no image file at"),
        ([case(0), case(1), case(2, name="red")], "cases 0 and 2 are both 'red'"),
    ],
)
def test_bad_folders_are_refused_in_one_line(content, says, tmp_path, monkeypatch, capsys):
    folder = folder_of(tmp_path / "cases", [])
    (folder / "cases.json").unlink()
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "cases.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["photographs", str(folder), "--out", str(tmp_path / "out")])
    assert photographs.main() == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("photographs: error: ")
    assert len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_other_things_that_are_refused(tmp_path, model_folder, monkeypatch, capsys):
    folder = folder_of(tmp_path / "cases", [case(0), case(1)])

    def refused(*given):
        out = str(tmp_path / "out")
        monkeypatch.setattr(sys, "argv", ["photographs", *map(str, given), "--out", out])
        assert photographs.main() == 2
        (error,) = capsys.readouterr().err.splitlines()[-1:]
        return error

    assert "no folder at" in refused(tmp_path / "nowhere")
    assert "--others-n -1: 0 or more" in refused(folder, "--others-n", -1)
    assert "--tokens 0: 1 or more" in refused(folder, "--tokens", 0)
    assert "no model" in refused(folder, "--model", tmp_path / "nowhere")
    (folder / "teal-view.jpg").write_bytes(b"no picture")
    assert "case 1 (teal): " in refused(folder)
    long = case(0, rephrase=30 * "and why ")
    error = refused(folder_of(tmp_path / "cases", [long]), "--model", model_folder)
    assert "case 'red', 'and why" in error and "budget" in error


def test_a_small_run(tmp_path, model_folder, monkeypatch, capsys):
    folder = folder_of(tmp_path / "cases", [case(0), case(1), case(2)])
    out = tmp_path / "out"
    given = [str(folder), "--model", str(model_folder), "--out", str(out), "--tokens", "6"]
    monkeypatch.setattr(sys, "argv", ["photographs", *given])
    assert photographs.main() == 0
    results = json.loads((out / "results.json").read_text())
    assert results["photographs"] == 3
    asked = [row for one in results["cases"] for row in one["asked"]]
    assert len(asked) == 21 and {row["kind"] for row in asked} == set(KINDS)
    assert counted(asked) == results["shares"]
    for row in asked:
        assert row["hit_n"] >= len(row["fired"]) and row["kept"] <= 1.0001
        assert {fired["case"] for fired in row["fired"]} <= set(COLOURS)
        assert row["hit_n"] or row["before"] == row["after"]
    printed = capsys.readouterr().out
    assert f"{results['shares']['others']['n']} of 6" in printed
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert "<this>" not in page and "What is &lt;this&gt;?" in page and "Is it &amp; so?" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # nothing from elsewhere
    for row in asked:
        assert html.escape(row["after"]) in page
    assert len(read_cases(folder)) == 3
