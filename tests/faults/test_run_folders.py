"""Run folders: one process at a time, whole parts alone, and the same code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import liveedit_jax
from liveedit_jax.evaluation import run as runs
from liveedit_jax.evaluation.run_folder import open_run

SETTINGS = {"seed": 1}


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    first = open_run(tmp_path / "o", SETTINGS)
    first.write("block", [1])
    with pytest.raises(ValueError, match="another process is evaluating into"):
        open_run(tmp_path / "o", SETTINGS)
    first.close()
    with open_run(tmp_path / "o", SETTINGS) as second:
        assert second.read("block") == [1]


def test_a_killed_process_holds_nothing(tmp_path):
    code = """
import os, sys
from liveedit_jax.evaluation.run_folder import open_run
open_run(sys.argv[1], {"seed": 1}).write("block", [1])
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "o")], check=False)
    with open_run(tmp_path / "o", SETTINGS) as folder:
        assert folder.read("block") == [1]


def test_a_finished_run_is_read_by_many_and_stays_as_it_is(tmp_path):
    with open_run(tmp_path / "o", SETTINGS) as folder:
        (folder.path / "results.json").write_text("{}")
        folder.finish()
    before = sorted((tmp_path / "o").iterdir())
    with open_run(tmp_path / "o", SETTINGS), open_run(tmp_path / "o", SETTINGS):
        assert sorted((tmp_path / "o").iterdir()) == before


def test_a_part_is_taken_only_whole_and_in_its_own_run(tmp_path):
    with open_run(tmp_path / "o", SETTINGS) as folder:
        folder.write("block_1", {"lines": [1, 2]})
        file = folder.work / "block_1.json"
        data = file.read_bytes()
        for damaged in (b"", data[:-1], data.replace(b"[1, 2]", b"[1, 3]"), data[65:], b"\xff" * 9):
            file.write_bytes(damaged)
            assert folder.read("block_1") is None and not folder.has("block_1")
            with pytest.raises(ValueError, match="block_1.json was damaged"):
                list(folder.parts("block"))
        file.write_bytes(data)
        assert list(folder.parts("block")) == [{"lines": [1, 2]}]
        shutil.copyfile(file, folder.work / "block_2.json")
        assert not folder.has("block_2")
    with open_run(tmp_path / "other", {"seed": 2}) as other:
        shutil.copyfile(file, other.work / "block_1.json")
        assert not other.has("block_1")


@pytest.mark.parametrize("text", ["[]", "{", "3", '{"settings": []}', "[" * 100_000])
def test_settings_of_no_run_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="give another --out"):
        open_run(tmp_path, SETTINGS)


def test_changed_code_is_other_code(tmp_path, monkeypatch):
    package = tmp_path / "clone" / "liveedit_jax"
    (package / "backbones").mkdir(parents=True)
    for name in ("__init__.py", "backbones/a.py"):
        (package / name).write_text("A = 1\n")

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(("git", *identity, *words), cwd=package.parent, check=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "a")
    monkeypatch.setattr(liveedit_jax, "__file__", str(package / "__init__.py"))

    def now():
        runs.code_sha256.cache_clear()
        return runs.git_commit(), runs.code_sha256()

    seen = [now()]
    assert "dirty" not in seen[0][0]
    for text in ("A = 2\n", "A = 3\n"):
        (package / "backbones" / "a.py").write_text(text)
        seen.append(now())
        assert "-dirty-" in seen[-1][0]
    (package / "new.py").write_text("")
    seen.append(now())
    assert len({commit for commit, _ in seen}) == len({code for _, code in seen}) == 4
    shutil.rmtree(package.parent / ".git")
    assert now() == (None, seen[-1][1])
    runs.code_sha256.cache_clear()


def test_the_settings_of_a_run_name_its_code():
    assert Path(liveedit_jax.__file__).is_file()
    runs.code_sha256.cache_clear()
    assert len(json.loads(json.dumps(runs.code_sha256()))) == 64
