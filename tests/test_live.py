"""The arrays in memory: always those of the live edits on disk, however they came there."""

import random
from dataclasses import replace

import numpy as np
import pytest

from experiments.checks.crash import CFG, HEADER, WIDTH, add_edits, make_expert
from liveedit_jax.config import Precision, StorageConfig
from liveedit_jax.editor import repository
from liveedit_jax.editor.repository import F32
from liveedit_jax.editor.rows import to_float32
from liveedit_jax.live import LiveRepository
from liveedit_jax.store import open_store

BF16 = StorageConfig(keys=Precision.BF16, bodies=Precision.BF16)


@pytest.fixture
def path(tmp_path):
    with open_store(tmp_path / "repo", write=True, create=HEADER) as store:
        add_edits(store, [str(i) for i in range(70)])  # picture 0 to 9 twice: the later ones live
    return tmp_path / "repo"


def check(live, storage=F32):
    """Check that the arrays in memory are those of the live edits."""
    alive = np.asarray(repository.alive(live.repo))
    ids = np.asarray(live.repo.edit_id)[alive].tolist()
    assert sorted(ids) == [edit.id for edit in live.store.history.live_edits()]
    kept = np.asarray(to_float32(live.repo.down))[alive]
    for edit_id, down in zip(ids, kept, strict=True):
        want = make_expert(live.store.history.edits[edit_id].request.target)["down"][0]
        exact = storage == F32 and live.store.header.dtype == "float32"
        np.testing.assert_allclose(down, want, atol=0 if exact else 0.02)


def test_memory_follows_whatever_is_done_here_or_elsewhere(path):
    rng = random.Random(0)
    with open_store(path, write=True) as ours, open_store(path, write=True) as theirs:
        live = LiveRepository(ours, CFG, WIDTH, F32)
        check(live)
        for step in range(30):
            store = rng.choice((ours, theirs))
            match rng.randrange(5):
                case 0:
                    store.refresh()
                    store.forget(rng.choice(sorted(store.history.live.values())))
                case 1:
                    store.rollback(rng.randint(1, 3))
                case 2:
                    store.refresh()
                    store.purge(rng.choice(sorted(store.history.edits)))
                case _:
                    add_edits(store, [str(100 * step + i) for i in range(rng.randint(1, 9))])
            if rng.random() < 0.7:
                check(live)  # `repo` is that of the store's history
                live.follow()
            check(live)
        check(LiveRepository(theirs, CFG, WIDTH, F32))


def test_following_reads_the_new_edits_alone(path, monkeypatch):
    with open_store(path, write=True) as store, open_store(path) as reader:
        live, read = LiveRepository(reader, CFG, WIDTH, F32), []
        experts = reader.experts

        def count(ids=None):
            read.append(ids)
            return experts(ids)

        monkeypatch.setattr(reader, "experts", count)
        ids = add_edits(store, ["200", "201", "60"])
        store.forget(30)
        live.follow()
        assert read == [ids]
        store.rollback(2)  # edit 30 is back, and what the last edit had superseded
        live.follow()
        assert len(read) == 2 and read[1][0] == 30 and len(read[1]) == 2
        live.follow()
        assert len(read) == 2
        check(live)


def test_other_storage_in_memory_and_on_disk(tmp_path, path):
    narrow = StorageConfig(keys=Precision.INT8, bodies=Precision.BF16)
    with open_store(path) as store:
        check(LiveRepository(store, CFG, WIDTH, narrow), narrow)


@pytest.mark.parametrize(
    ("disk", "storage"), [("float32", F32), ("bfloat16", BF16), ("bfloat16", F32)]
)
def test_memory_is_the_same_after_an_edit_and_after_opening(tmp_path, disk, storage):
    path = tmp_path / "repo"
    with open_store(path, write=True, create=replace(HEADER, dtype=disk)) as store:
        add_edits(store, [str(i) for i in range(60, 70)])
        live = LiveRepository(store, CFG, WIDTH, storage)  # read as they are stored
        add_edits(store, ["7", "61"])
        live.follow()
        store.forget(3)
        live.follow()
        check(live, storage)
        opened = LiveRepository(store, CFG, WIDTH, storage)
        check(opened, storage)
        rows = [np.flatnonzero(np.asarray(repository.alive(each.repo))) for each in (live, opened)]
        for name in repository.STORED:
            mine, theirs = (
                np.asarray(to_float32(getattr(each.repo, name)))[row]
                for each, row in zip((live, opened), rows, strict=True)
            )
            assert np.array_equal(mine, theirs)


def test_a_damaged_expert_is_not_loaded(path):
    data = bytearray(path.read_bytes())
    at = data.find(make_expert("69")["up"].tobytes()[:64])
    data[at] ^= 1
    path.write_bytes(data)
    with open_store(path) as store, pytest.raises(ValueError, match="expert of edit 70"):
        LiveRepository(store, CFG, WIDTH, F32)
