"""Reports of runs that somebody else sent: nothing of theirs reaches the page unescaped."""

import hashlib
import io
import json

import pytest
from PIL import Image

from liveedit_jax.report.runs import report_runs
from tests.report.made_runs import write_run

TAG = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[2J\n\n"


def lines_of(file, **changes):
    def change(folder):
        lines = [json.loads(line) for line in (folder / file).read_text().splitlines()]
        text = "".join(json.dumps(line | changes) + "\n" for line in lines)
        (folder / file).write_text(text)

    return change


def settings_of(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        config["settings"].update(changes)
        (folder / "config.json").write_text(json.dumps(config))

    return change


def mark_of(**changes):
    def change(folder):
        results = json.loads((folder / "results.json").read_text())
        results["marks"][-1].update(changes)
        (folder / "results.json").write_text(json.dumps(results))

    return change


ESCAPED = {
    **{f: lines_of("cases.jsonl", **{f: TAG}) for f in ("prompt", "target", "generated")},
    **{f: lines_of("cases.jsonl", **{f: TAG}) for f in ("before_generated", "entity", "fact")},
    "unknown probe": lines_of("cases.jsonl", probe=TAG),
    **{f"settings {f}": settings_of(**{f: TAG}) for f in ("config", "dataset", "backbone")},
    **{f"settings {f}": settings_of(**{f: TAG}) for f in ("editor", "split", "commit")},
    "model": settings_of(model={TAG: TAG}),
    "method": settings_of(method={TAG: TAG}),
}
REFUSED = {
    "a hit number of text": lines_of("cases.jsonl", hit_n=TAG),
    "a case of text": lines_of("cases.jsonl", case=TAG),
    "a negative case": lines_of("cases.jsonl", case=-1),
    "an nth of text": lines_of("cases.jsonl", nth=TAG),
    "a prompt that is a list": lines_of("cases.jsonl", prompt=[TAG]),
    "half a surrogate": lines_of("cases.jsonl", prompt="\ud800"),
    "an edit of text": lines_of("routes.jsonl", experts=[[TAG, 0.9]]),
    "a weight of text": lines_of("routes.jsonl", experts=[[1, TAG]]),
    "no experts": lines_of("routes.jsonl", experts=None),
    "an edit that is a list": lines_of("routes.jsonl", experts=[[[1], 0.9]]),
    "three numbers": lines_of("routes.jsonl", experts=[[1, 2, 3]]),
    "kept as text": lines_of("routes.jsonl", kept=TAG),
    "a margin of text": lines_of("cases.jsonl", margin=TAG),
    "marks of text": settings_of(marks=[TAG]),
    "cases of text": settings_of(cases_n=TAG),
    "cases without end": settings_of(cases_n=10**30),
    "a seed of text": settings_of(seed=TAG),
    "a config that is a list": settings_of(config=[TAG]),
    "a config of half a surrogate": settings_of(config="\udfff"),
    "counted cases of text": mark_of(cases=TAG),
    "milliseconds of text": mark_of(edit_ms=TAG),
    "edits without end": mark_of(edits=10**400),
    "negative edits": mark_of(edits=-1),
    "more than all": mark_of(reliability=1e300),
    "less than nothing": mark_of(reliability=-5),
    "not finite": mark_of(reliability=float("inf")),
    "groups of text": mark_of(hard_locality=TAG),
    "exact match of text": mark_of(exact_match={"reliability": TAG}),
    "true": mark_of(reliability=True),
}


@pytest.mark.parametrize("what", ESCAPED)
def test_texts_are_escaped(tmp_path, what):
    folder = write_run(tmp_path / "run", wrong=lambda *_: True)
    ESCAPED[what](folder)
    table, files = report_runs([folder], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in page and "<img src=x" not in page
    assert "\x1b" not in table
    assert (
        "\n\n\n" not in table and r"\end{tabular}" in (tmp_path / "out" / "table.tex").read_text()
    )


@pytest.mark.parametrize("what", REFUSED)
def test_fields_that_no_evaluation_writes_are_refused_in_one_line(tmp_path, what):
    folder = write_run(tmp_path / "run", wrong=lambda *_: True)
    REFUSED[what](folder)
    with pytest.raises(ValueError) as refused:
        report_runs([folder], tmp_path / "out")
    said = str(refused.value)
    assert said.startswith(str(folder)) and "\n" not in said and "\x1b" not in said
    assert len(said) < 500 and not (tmp_path / "out").exists()


@pytest.fixture
def private(tmp_path):
    """A user's own picture, and its sha256."""
    data = io.BytesIO()
    Image.new("RGB", (30, 30), "red").save(data, "PNG")
    home = tmp_path / "home"
    home.mkdir()
    (home / "private.png").write_bytes(data.getvalue())
    return home / "private.png", hashlib.sha256(data.getvalue()).hexdigest()


def shown(folder, out, declared, **line):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pictures": declared}))
    lines_of("cases.jsonl", **line)(folder)
    report_runs([folder], out)
    return "data:image" in (out / "report.html").read_text()


def test_no_picture_is_shown_that_the_run_did_not_have(tmp_path, private):
    file, sha256 = private
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "x.png").symlink_to(file)
    tries = (
        ("/", str(file)[1:], {}),
        (str(file.parent), file.name, {}),
        (str(file.parent), file.name, {"image_sha256": "0" * 64}),
        (str(tmp_path / "link"), "x.png", {"image_sha256": sha256}),
        (str(tmp_path / "link"), "../home/private.png", {"image_sha256": sha256}),
        (str(tmp_path / "link"), str(file), {"image_sha256": sha256}),
        ("/dev", "zero", {"image_sha256": sha256}),
        ("/", "a\0b", {"image_sha256": sha256}),
        ("\0", "a", {"image_sha256": sha256}),
    )
    for i, (declared, name, more) in enumerate(tries):
        folder = write_run(tmp_path / f"run{i}", wrong=lambda *_: True)
        assert not shown(folder, tmp_path / f"out{i}", declared, image=name, **more), tries[i]


def test_the_pictures_of_a_run_are_shown(tmp_path, private):
    file, sha256 = private
    folder = write_run(tmp_path / "run", wrong=lambda *_: True)
    out = tmp_path / "out"
    assert shown(folder, out, str(file.parent), image=file.name, image_sha256=sha256)
