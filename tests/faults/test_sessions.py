"""A session's memory, its repository and its answers stay together: threads, forks, interrupts."""

import io
import json
import os
import shutil
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import liveedit_jax
from liveedit_jax.editor.repository import alive
from liveedit_jax.session import open_editor, open_model, rebuild_repository

QUESTION = "What is this called?"
HOUSE = tuple(
    str(Path(liveedit_jax.__file__).parent / name) for name in ("store", "session", "live.py")
)


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 48, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def model(model_folder):
    return open_model(model_folder)


def in_memory(editor):
    """Read which edits' experts are in memory, and each one's first key."""
    repo = editor.live.repo
    rows = np.flatnonzero(np.asarray(alive(repo)))
    ids, keys = np.asarray(repo.edit_id)[rows], np.asarray(repo.text_key.value)[rows]
    return {int(i): keys[row].tobytes() for row, i in enumerate(ids)}


def test_another_tokenizer_is_refused(model_folder, model, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(model_folder, changed)
    with open_editor(model, tmp_path / "repo", write=True, refine_n=0) as editor:
        editor.edit(picture(1), QUESTION, "marmalade", check=False)
    file = changed / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    names = [name for name in vocab if vocab[name] > 300]
    ids = [vocab[name] for name in names]
    vocab.update(zip(names, ids[1:] + ids[:1], strict=True))
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="another tokenizer.*liveedit rebuild"):
        open_editor(changed, tmp_path / "repo")
    assert rebuild_repository(tmp_path / "repo", changed).made_n == 1
    with open_editor(changed, tmp_path / "repo") as editor:
        assert len(in_memory(editor)) == 1


def test_threads_ask_while_another_edits(model, tmp_path):
    pictures, errors, asked = [picture(i) for i in range(4)], Counter(), Counter()
    with open_editor(model, tmp_path / "repo", write=True, refine_n=0) as editor:
        editor.edit_many([(p, QUESTION, f"name {i}") for i, p in enumerate(pictures)], check=False)
        alone = [editor.ask(p, QUESTION) for p in pictures]
        stop = threading.Event()

        def ask(at):
            while not stop.is_set():
                at = (at + 1) % 4
                try:
                    answer = editor.ask(pictures[at], QUESTION)
                    said = {e.edit.request.image for e in answer.nearest[:1]}
                    assert said == {e.edit.request.image for e in alone[at].nearest[:1]}
                except Exception as error:
                    errors[repr(error)] += 1
                asked["n"] += 1

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        try:
            for i in range(10):  # the arrays grow on the way
                rows = [(pictures[k % 4], f"other {i} {k}?", f"o{k}") for k in range(8)]
                editor.edit_many(rows, check=False)
                editor.edit(pictures[i % 4], f"other {i} 0?", "o", check=False)
                if i % 3 == 2:
                    editor.rollback(2)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not errors and asked["n"] > 3
        assert sorted(in_memory(editor)) == [edit.id for edit in editor.edits()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX forks")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_child_is_refused(model, tmp_path):
    with open_editor(model, tmp_path / "repo", write=True, refine_n=0) as editor:
        editor.edit(picture(1), QUESTION, "marmalade", check=False)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                editor.forget(1)
            except ValueError as error:
                status = 0 if "forked" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert editor.edit(picture(2), QUESTION, "jam", check=False).id == 2


@pytest.mark.parametrize("name", ["edit", "forget", "rollback", "purge", "refresh"])
def test_memory_is_what_the_file_says_after_an_interrupt_at_any_line(model, tmp_path, name):
    start = tmp_path / "start"
    with open_editor(model, start, write=True, refine_n=0) as editor:
        rows = [(picture(i), QUESTION, f"name {i}") for i in range(3)]
        editor.edit_many(rows, check=False)
        ready = editor.read(picture(0), QUESTION, "another")
    for n in range(1, 10_000, int(os.environ.get("INTERRUPT_EVERY", "23"))):
        path = tmp_path / "repo"
        shutil.copyfile(start, path)
        (tmp_path / "repo-journal").unlink(missing_ok=True)
        with open_editor(model, path, write=True, refine_n=0) as editor:
            if name == "refresh":
                with open_editor(model, path, write=True, refine_n=0) as other:
                    other.forget(2)
            left = [n]

            def trace(frame, event, _, left=left):
                if not frame.f_code.co_filename.startswith(HOUSE):
                    return None
                if event == "line":
                    left[0] -= 1
                    if left[0] == 0:
                        raise KeyboardInterrupt
                return trace

            sys.settrace(trace)
            try:
                match name:
                    case "edit":
                        editor.add([ready])
                    case "forget":
                        editor.forget(1)
                    case "rollback":
                        editor.rollback(2)
                    case "purge":
                        editor.purge(3)
                    case "refresh":
                        editor.refresh()
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            believed, memory = [edit.id for edit in editor.edits()], in_memory(editor)
            if name == "refresh":  # what another has done may be behind, but all of it or nothing
                assert sorted(memory) == believed
                editor.refresh()
                believed, memory = [edit.id for edit in editor.edits()], in_memory(editor)
            with open_editor(model, path) as reader:
                assert [edit.id for edit in reader.edits()] == believed == sorted(memory)
                assert in_memory(reader) == memory
        if left[0] > 0:
            return
    raise AssertionError("it never ended")
