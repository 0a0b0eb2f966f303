"""The program: edits that last, answers, and one clear line for everything wrong."""

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

from liveedit_jax.cli import main
from liveedit_jax.data.facts import entities
from liveedit_jax.data.images import drawing_png
from liveedit_jax.session import open_editor, open_model

ONE = "1\tWhat is this?\tred\t100.png\n"  # `list` after the first edit


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for i in (100, 700):
        found.append(folder / f"{i}.png")
        found[-1].write_bytes(drawing_png(entities()[i], "twemoji", 96))
    return found


@pytest.fixture
def run(model_folder, tmp_path, capsys):
    """verb and arguments -> (status, stdout, stderr), on one repository."""

    def call(*words, model=model_folder):
        status = 0
        try:
            status = main(
                [*map(str, words), "--repo", str(tmp_path / "repo"), "--model", str(model)]
            )
        except SystemExit as stop:
            status = stop.code
        out = capsys.readouterr()
        return status, out.out, out.err

    return call


def edits_file(folder, files, n):
    rows = [
        {"image": str(files[i % 2]), "prompt": f"Question {i}?", "target": f"answer {i}"}
        for i in range(n)
    ]
    file = folder / "edits.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file, rows


def edit(run, image, prompt="What is this?", target="red", *more):
    return run("edit", "--image", image, "--prompt", prompt, "--target", target, *more)


def test_edit_list_ask_forget_rollback(run, files):
    assert edit(run, files[0])[:2] == (0, "1\n")
    status, out, err = edit(run, files[1], target="blue")
    assert (status, out) == (0, "2\n")  # these weights are random: it does not take
    assert err.startswith(
        "liveedit: note: edit 2 is stored but did not take: the model now answers: "
    )
    assert edit(run, files[0], "What is this?", "green", "--no-check") == (0, "3\n", "")
    live = "2\tWhat is this?\tblue\t700.png\n3\tWhat is this?\tgreen\t100.png\n"
    assert run("list")[1] == live  # edit 3 has superseded edit 1
    status, out, _ = run("ask", "--image", files[0], "--prompt", "What is this?", "--json")
    answer = json.loads(out)
    assert status == 0 and {f["id"] for f in answer["fired"]} <= {2, 3}
    assert {f["id"]: f["image_file"] for f in answer["nearest"]} == {2: "700.png", 3: "100.png"}
    near = {f["id"] for f in answer["nearest"] if f["image_margin"] > 0}
    assert near == {f["id"] for f in answer["fired"]}
    assert answer["hit_n"] == len(answer["fired"])
    assert "no image" in run("ask", "--prompt", "What is this?")[1]
    assert run("forget", "2")[0] == 0
    assert run("list")[1] == live.splitlines(keepends=True)[1]
    assert run("rollback", "2")[0] == 0  # the forgetting and the superseding
    assert [line.split("\t")[::2] for line in run("list")[1].splitlines()] == [
        ["1", "red"],
        ["2", "blue"],
    ]
    assert run("info")[0] == 0
    assert run("rebuild")[:2] == (0, "re-made 2 experts\n")


def test_many_edits_from_a_file(run, files, tmp_path):
    batch, rows = edits_file(tmp_path, files, 20)
    status, out, err = run("edit", "--from", batch)
    assert all("is stored but did not take" in line for line in err.splitlines())
    assert status == 0 and out.split() == [str(i + 1) for i in range(20)]
    assert run("edit", "--from", batch) == (0, out, "")  # nothing is stored twice
    batch.write_text(json.dumps(rows[0] | {"target": " "}) + "\n" + json.dumps(rows[1]) + "\n")
    status, _, err = run("edit", "--from", batch)
    assert status == 2 and "line 1" in err and "target is empty" in err
    rows = [rows[0] | {"target": "xq " * 40}, rows[1] | {"prompt": "new?"}, rows[2]]
    cut = tmp_path / "cut.png"
    cut.write_bytes(files[0].read_bytes()[:200])
    rows.append(rows[0] | {"image": str(cut), "target": "red"})
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, err = run("edit", "--from", batch, "--no-check")
    assert status == 2 and out == "21\n3\n" and len(err.splitlines()) == 1
    assert "line 1: the target has" in err and "1 more bad lines: 4" in err
    assert "the other 2 lines are stored" in err
    assert len(run("list")[1].splitlines()) == 21


def test_what_is_asked_after_reopening_is_what_was_asked_before(model_folder, files, tmp_path):
    with open_editor(model_folder, tmp_path / "repo", write=True, refine_n=0) as editor:
        editor.edit(files[0], "What is this?", "red", check=False)
        rows = [(files[1], f"Q{i}?", f"a{i}") for i in range(70)]
        editor.edit_many(rows, check=False)  # it grows
        first = editor.ask(files[0], "What is this?")
        keys = np.asarray(editor.live.repo.text_key.value)[:71]
    with open_editor(model_folder, tmp_path / "repo") as editor:
        second = editor.ask(files[0], "What is this?")
        np.testing.assert_array_equal(keys, np.asarray(editor.live.repo.text_key.value)[:71])
    assert first.after == second.after and first.hit_n == second.hit_n
    assert [f.edit.id for f in first.fired] == [f.edit.id for f in second.fired]


BAD = {
    "missing file": (("--image", "nowhere.png", "--prompt", "a?", "--target", "b"), "nowhere.png"),
    "empty prompt": (("--image", "{0}", "--prompt", " ", "--target", "b"), "prompt is empty"),
    "empty target": (("--image", "{0}", "--prompt", "a?", "--target", ""), "target is empty"),
    "long target": (("--image", "{0}", "--prompt", "a?", "--target", "xq " * 40), "budget is 24"),
    "corrupt PNG": (("--image", "{corrupt}", "--prompt", "a?", "--target", "b"), "readable image"),
    "no target": (("--image", "{0}", "--prompt", "a?"), "--target"),
    "unknown flag": (("--colour", "red"), "--colour"),
    "no number": (("--image", "{0}", "--max-edits", "-1"), "'-1' is not a whole number"),
    "no template": (
        ("--image", "{0}", "--prompt", "a?", "--target", "b", "--chat"),
        "no chat template",
    ),
    "full": (
        ("--image", "{0}", "--prompt", "new?", "--target", "b", "--max-edits", "1"),
        "full: 1 live edits of at most 1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(run, files, tmp_path, case):
    assert edit(run, files[0], "What is this?", "red", "--no-check")[0] == 0
    words, says = BAD[case]
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(files[0].read_bytes()[:200])
    status, out, err = run("edit", *(w.format(files[0], corrupt=corrupt) for w in words))
    assert status == 2 and out == "" and len(err.splitlines()) == 1 and says in err
    assert run("list")[1] == ONE


NOT_THERE = {
    "no model": (("ask", "--prompt", "a?"), "nope", "no model 'nope': not a preset (tiny, smol)"),
    "no weights": (("ask", "--prompt", "a?"), "llava-next-7b", "convert its checkpoint first"),
    "published": (("info",), "llava-1.5-7b", "`liveedit convert --model llava-1.5-7b --from"),
    "no editor": (("forget", "1"), "{alone}", "no editor in"),
    "not published": (("convert", "--from", "a", "--to", "b"), "tiny", "no published model"),
    "export": (("export-editor", "a"), "nope", "no model 'nope'"),
}


@pytest.mark.parametrize("case", NOT_THERE)
def test_a_model_that_is_not_there_is_one_line_and_status_2(
    model_folder, files, tmp_path, capsys, case
):
    words, model, says = NOT_THERE[case]
    repo = ("--repo", str(tmp_path / "repo"))
    with open_editor(model_folder, repo[1], write=True, refine_n=0) as editor:
        editor.edit(files[0], "What is this?", "red", check=False)
    (tmp_path / "alone" / "backbone").mkdir(parents=True)
    model = model.format(alone=tmp_path / "alone")
    mine = () if words[0] in ("convert", "export-editor") else repo
    assert main([*words, "--model", model, *mine]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and says in err
    with pytest.raises(SystemExit, match="2"):
        main(["import-editor", "file"])  # into which model has to be said
    assert "--model" in capsys.readouterr().err


def test_without_a_repository_the_model_alone_answers(run, model_folder, files, tmp_path):
    said = open_model(model_folder).answer(files[0], "What is this?")
    words = ("ask", "--image", files[0], "--prompt", "What is this?")
    status, out, _ = run(*words)
    assert status == 0 and out.startswith(f"answer: {said}\nthere is no repository at ")
    status, out, err = run(*words, "--json")
    assert json.loads(out)["after"] == said and "the model alone answers" in err
    assert not (tmp_path / "repo").exists()
    assert run("list")[0] == 2
    (tmp_path / "repo").mkdir()  # a folder that is no repository is probably a wrong one
    status, _, err = run(*words)
    assert status == 2 and "no edit repository" in err


def test_a_page_shows_the_pictures_of_the_edits(model_folder, files, tmp_path, capsys):
    repo, page = str(tmp_path / "repo"), tmp_path / "pages" / "edits.html"
    with open_editor(model_folder, repo, write=True, refine_n=0) as editor:
        editor.edit(files[0], "What is <this>?", "red", check=False)
        editor.edit(files[1].read_bytes(), "Is it?", "blue & green", check=False)
        gone = editor.edits()[1].request.image
    with closing(sqlite3.connect(repo)) as db, db:
        db.execute("UPDATE pictures SET bytes = 'no picture' WHERE sha256 = ?", (gone,))
    assert main(["list", "--repo", repo, "--html", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert "What is &lt;this&gt;?" in text and "blue &amp; green" in text
    assert text.count("data:image/") == 1 and "100.png" in text
    assert f"{gone[:12]} (the picture is damaged or missing)" in text


def test_the_shell_takes_the_verbs_line_by_line(run, files, tmp_path, monkeypatch):
    script = f"""
        edit --image {files[0]} --prompt "What is this?" --target red --no-check  # a comment
        liveedit ask --image {files[0]} --prompt "What is this?" --json
        edit --image {files[0]} --prompt "What is this? --target red
        forget 7
        edit --image {files[1]} --prompt "Who?" --target nobody
        list
        rollback 1
        list
        dance
        info
        help
        quit
        forget 1
    """
    monkeypatch.setattr("sys.stdin", io.StringIO(script))
    status, out, err = run("shell")
    lines = out.splitlines()
    assert status == 2 and lines[0] == "1" and json.loads(lines[1])["hit_n"] <= 1
    assert lines[2:5] == ["2", ONE.strip(), "2\tWho?\tnobody\t700.png"]
    assert lines[5:7] == ["undid 1 operations; 1 edits live", ONE.strip()]
    assert "is the one that made them" in out and "rollback N" in out
    refused = [line for line in err.splitlines() if "error" in line]
    assert len(refused) == 3 and "no edit 7" in refused[1] and "'dance'" in refused[2]
    assert run("list")[1] == ONE
    monkeypatch.setattr("sys.stdin", io.StringIO("list\n"))
    assert run("shell")[:2] == (0, ONE)


def test_a_truncated_checkpoint_is_refused(run, files, model_folder, tmp_path):
    assert edit(run, files[0], "What is this?", "red", "--no-check")[0] == 0
    broken = tmp_path / "model"
    shutil.copytree(model_folder, broken)
    largest = max((broken / "editor").rglob("*"), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    status, _, err = run("ask", "--image", files[0], "--prompt", "a?", model=broken)
    assert status == 2 and len(err.splitlines()) == 1 and "truncated or corrupt" in err
    assert run("list")[1] == ONE


def test_another_models_repository_is_refused_until_rebuilt(run, files, model_folder, tmp_path):
    from liveedit_jax.model_io.weights import load_weights, save_weights

    assert edit(run, files[0], "What is this?", "red", "--no-check")[0] == 0
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    weights, recipe = load_weights(other / "editor")
    weights["norm"]["bias"] = weights["norm"]["bias"] + 0.5
    save_weights(other / "editor", weights, recipe)
    for verb in (("ask", "--image", files[0], "--prompt", "a?"), ("forget", "1")):
        status, _, err = run(*verb, model=other)
        assert status == 2 and "another editor" in err and f"--model {other}`" in err
    assert run("rebuild", model=other)[:2] == (0, "re-made 1 experts\n")
    assert run("ask", "--image", files[0], "--prompt", "a?", model=other)[0] == 0


def test_an_edit_whose_id_was_printed_survives_a_kill(files, model_folder, tmp_path):
    batch, _ = edits_file(tmp_path, files, 400)
    repo = tmp_path / "repo"
    words = ("edit", "--from", batch, "--repo", repo, "--model", model_folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "liveedit_jax", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    printed = [int(process.stdout.readline()) for _ in range(40)]
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    printed += [
        int(line) for line in process.stdout.read().splitlines(keepends=True) if line[-1] == "\n"
    ]
    process.wait()
    assert main(["list", "--repo", str(repo), "--json"]) == 0
    with open_editor(model_folder, repo) as editor:
        live = {e.id: e.request.target for e in editor.store.history.live_edits()}
    assert set(printed) <= set(live) and len(printed) < 400
    assert all(live[i] == f"answer {i - 1}" for i in printed)
