"""Every file call of every operation fails once, and then for good: nothing is lost or differs."""

import shutil
from contextlib import suppress

import numpy as np
import pytest

from experiments.checks.crash import CFG, HEADER, WIDTH, add_edits, make_expert, picture_of
from liveedit_jax.editor import repository
from liveedit_jax.editor.repository import F32
from liveedit_jax.editor.rows import to_float32
from liveedit_jax.live import LiveRepository
from liveedit_jax.store import open_store
from tests.store.faulty_files import FaultyFiles

OPERATIONS = {
    "edit": lambda store: add_edits(store, ["7", "8"]),
    "supersede": lambda store: add_edits(store, ["61"]),  # the picture and prompt of edit 1
    "forget": lambda store: store.forget(2),
    "rollback": lambda store: store.rollback(2),
    "purge": lambda store: store.purge(3),
}
REFUSED = (OSError, ValueError, MemoryError)


@pytest.fixture(scope="module")
def files():
    with FaultyFiles().installed() as files:
        yield files


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "repo"
    with open_store(path, write=True, create=HEADER) as store:
        add_edits(store, [str(i) for i in range(5)])
        store.forget(5)
    return path


def on_disk(path):
    """Read the live edits of a file; all of them have to be whole."""
    with open_store(path) as store:
        found = {edit.id: edit.request.target for edit in store.history.live_edits()}
        seen = []
        with store.transaction():
            for ids, arrays in store.experts():
                for i, edit_id in enumerate(ids):
                    want = make_expert(found[edit_id])
                    assert all(np.array_equal(arrays[n][i], want[n][0]) for n in want)
                seen += ids
        assert sorted(seen) == sorted(found)
        for edit in store.history.edits.values():
            assert store.picture(edit.request.image) == picture_of(edit.request.target)
        return store.history.state.operations, found


def in_memory(live):
    """Read the live edits of the arrays in memory; each has to have its own expert."""
    repo = live.repo
    alive = np.asarray(repository.alive(repo))
    ids, down = np.asarray(repo.edit_id)[alive].tolist(), np.asarray(to_float32(repo.down))[alive]
    found = {i: live.store.history.edits[i].request.target for i in ids}
    for edit_id, kept in zip(ids, down, strict=True):
        assert np.array_equal(kept, make_expert(found[edit_id])["down"][0])
    return live.store.history.state.operations, found


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failing_file_call_loses_nothing(files, original, tmp_path, name, lasting):
    path, before, tried_n = tmp_path / "repo", on_disk(original), 0
    shutil.copyfile(original, path)
    with open_store(path, write=True) as store:
        OPERATIONS[name](store)
    after = on_disk(path)
    while True:
        shutil.copyfile(original, path)
        with open_store(path, write=True) as store:
            live = LiveRepository(store, CFG, WIDTH, F32)
            files.arm(tried_n, lasting)
            done = False
            with suppress(*REFUSED):
                OPERATIONS[name](store)
                done = True
            with suppress(*REFUSED):
                live.follow()
            failed = files.failed
            files.disarm()
            here = in_memory(live)
            assert here == on_disk(path)
            assert here == after if done else here in (before, after)
        if not failed:
            break
        tried_n += 1
    assert done and tried_n > 10


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_a_failing_file_call_while_a_file_is_opened_or_made(files, original, tmp_path, lasting):
    for kind in ("opened", "made"):
        path, failed, tried_n = tmp_path / kind, ["none yet"], 0
        while failed:
            path.unlink(missing_ok=True)
            if kind == "opened":
                shutil.copyfile(original, path)
            files.arm(tried_n, lasting)
            with suppress(*REFUSED), open_store(path, write=True, create=HEADER) as store:
                LiveRepository(store, CFG, WIDTH, F32)
            failed = files.failed
            files.disarm()
            if kind == "opened":
                assert on_disk(path) == on_disk(original)
            elif path.exists():
                assert on_disk(path) == (0, {})
            assert {each.name for each in tmp_path.iterdir()} <= {"opened", "made"}
            tried_n += 1
        assert tried_n > 10
