"""What a person types: edits that last, answers, and one clear line for everything wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from liveedit_jax.cli import main
from liveedit_jax.data.facts import entities
from liveedit_jax.data.images import drawing_png
from liveedit_jax.session import open_editor


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


def edit(run, image, prompt="What is this?", target="red"):
    return run("edit", "--image", image, "--prompt", prompt, "--target", target)


def test_edit_list_ask_forget_rollback(run, files):
    assert edit(run, files[0])[:2] == (0, "1\n")
    assert edit(run, files[1], target="blue")[:2] == (0, "2\n")
    assert edit(run, files[0], target="green")[:2] == (0, "3\n")  # supersedes edit 1
    assert run("list")[1] == "2\tWhat is this?\tblue\n3\tWhat is this?\tgreen\n"
    status, out, _ = run("ask", "--image", files[0], "--prompt", "What is this?", "--json")
    answer = json.loads(out)
    assert status == 0 and {f["id"] for f in answer["fired"]} <= {2, 3}
    assert answer["hit_n"] == len(answer["fired"])
    assert "no image" in run("ask", "--prompt", "What is this?")[1]
    assert run("forget", "2")[0] == 0
    assert run("list")[1] == "3\tWhat is this?\tgreen\n"
    assert run("rollback", "2")[0] == 0  # the forgetting and the superseding
    assert run("list")[1] == "1\tWhat is this?\tred\n2\tWhat is this?\tblue\n"
    assert run("info")[0] == 0
    assert run("rebuild")[:2] == (0, "re-made 2 experts\n")


def test_many_edits_from_a_file(run, files, tmp_path):
    batch, rows = edits_file(tmp_path, files, 20)
    status, out, _ = run("edit", "--from", batch)
    assert status == 0 and out.split() == [str(i + 1) for i in range(20)]
    assert run("edit", "--from", batch)[1] == out  # nothing is stored twice
    batch.write_text(json.dumps(rows[0] | {"target": " "}) + "\n" + json.dumps(rows[1]) + "\n")
    status, _, err = run("edit", "--from", batch)
    assert status == 2 and "line 1" in err and "target is empty" in err
    assert len(run("list")[1].splitlines()) == 20


def test_what_is_asked_after_reopening_is_what_was_asked_before(model_folder, files, tmp_path):
    with open_editor(model_folder, tmp_path / "repo", write=True) as editor:
        editor.edit(files[0], "What is this?", "red")
        list(editor.edit_many([(files[1], f"Q{i}?", f"a{i}") for i in range(70)]))  # grows
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
    assert edit(run, files[1])[0] == 0
    words, says = BAD[case]
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(files[0].read_bytes()[:200])
    status, out, err = run("edit", *(w.format(files[0], corrupt=corrupt) for w in words))
    assert status == 2 and out == "" and len(err.splitlines()) == 1 and says in err
    assert run("list")[1] == "1\tWhat is this?\tred\n"


def test_a_truncated_checkpoint_is_refused(run, files, model_folder, tmp_path):
    assert edit(run, files[0])[0] == 0
    broken = tmp_path / "model"
    shutil.copytree(model_folder, broken)
    largest = max((broken / "editor").rglob("*"), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    status, _, err = run("ask", "--image", files[0], "--prompt", "a?", model=broken)
    assert status == 2 and len(err.splitlines()) == 1 and "truncated or corrupt" in err
    assert run("list")[1] == "1\tWhat is this?\tred\n"


def test_another_models_repository_is_refused_until_rebuilt(run, files, model_folder, tmp_path):
    from liveedit_jax.model_io.weights import load_weights, save_weights

    assert edit(run, files[0])[0] == 0
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    weights, recipe = load_weights(other / "editor")
    weights["norm"]["bias"] = weights["norm"]["bias"] + 0.5
    save_weights(other / "editor", weights, recipe)
    for verb in (("ask", "--image", files[0], "--prompt", "a?"), ("forget", "1")):
        status, _, err = run(*verb, model=other)
        assert status == 2 and "another editor" in err and "rebuild" in err
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
