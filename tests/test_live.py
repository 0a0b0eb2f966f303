"""Opening from snapshots: always the same edits as from the journal and rows alone."""

import shutil

import numpy as np
import pytest

from experiments.checks.crash import CFG, HEADER, WIDTH, make_expert
from liveedit_jax.config import Precision, StorageConfig
from liveedit_jax.editor import repository
from liveedit_jax.editor.repository import F32
from liveedit_jax.editor.rows import to_float32
from liveedit_jax.live import LiveRepository
from liveedit_jax.snapshot import KEPT_N
from liveedit_jax.store import Request, open_store


@pytest.fixture
def folder(tmp_path):
    with open_store(tmp_path / "repo", write=True, create=HEADER) as store:
        add(LiveRepository(store, CFG, WIDTH, F32), range(70))
    return tmp_path / "repo"


def add(live, targets):
    for target in targets:
        image = live.store.add_image(b"image %d" % (int(target) % 60))
        ids = live.store.add_edits([Request(image, "what?", str(target))], make_expert(target))
        live.add(make_expert(target), ids)


def check(store, storage=F32):
    """The arrays in memory are those of the live edits; returns what was loaded."""
    live = LiveRepository(store, CFG, WIDTH, storage)
    alive = np.asarray(repository.alive(live.repo))
    ids = np.asarray(live.repo.edit_id)[alive].tolist()
    assert sorted(ids) == [edit.id for edit in store.history.live_edits()]
    kept = np.asarray(to_float32(live.repo.down))[alive]
    for edit_id, down in zip(ids, kept, strict=True):
        want = make_expert(store.history.edits[edit_id].request.target)["down"][0]
        np.testing.assert_allclose(down, want, atol=0 if storage == F32 else 0.02)
    return live


def test_a_snapshot_and_what_came_after_it_are_loaded(folder):
    with open_store(folder, write=True) as store:
        live = check(store)
        live.save()
        add(live, [200, 201, 0 + 60])  # the last supersedes edits of image 0
        store.forget(30)
        live.delete([30])
    with open_store(folder) as store:
        live = check(store)
        assert live.snapshot_seq == 70 and not live.skipped


def test_after_a_rollback_or_for_other_storage_rows_are_loaded(folder):
    narrow = StorageConfig(keys=Precision.INT8, bodies=Precision.BF16)
    with open_store(folder, write=True) as store:
        live = check(store)
        live.save()
        live_narrow = check(store, narrow)
        assert live_narrow.snapshot_seq == 0 and "another precision" in live_narrow.skipped[0]
        live_narrow.save()
        assert check(store, narrow).snapshot_seq == 70
        live.save()
        store.rollback(3)
        live.load()
        assert live.snapshot_seq == 0 and "older than a rollback" in live.skipped[0]
        check(store)
        live.save()
        assert check(store).snapshot_seq == 71


def test_old_snapshots_go_and_a_half_written_one_is_no_snapshot(folder):
    with open_store(folder, write=True) as store:
        live = check(store)
        for i in range(KEPT_N + 2):
            add(live, [300 + i])
            home = live.save()
        (home.parent / ".writing" / "arrays").mkdir(parents=True)
        assert len([p for p in home.parent.iterdir() if p.name.isdigit()]) == KEPT_N
        assert check(store).snapshot_seq == int(home.name)
        live.save()
        assert not (home.parent / ".writing").exists()


@pytest.mark.parametrize("how", ["byte", "cut", "gone", "manifest"])
def test_a_damaged_snapshot_is_said_and_not_used(folder, how):
    with open_store(folder, write=True) as store:
        home = check(store).save()
        largest = max((f for f in (home / "arrays").rglob("*") if f.is_file()), key=size)
        file = home / "manifest.json" if how == "manifest" else largest
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(data[: len(data) // 2] if how == "cut" else data)
        live = check(store)
        assert live.snapshot_seq == 0 and f"snapshot {home} was not used" in live.skipped[0]


def size(file):
    return file.stat().st_size


def test_a_journal_that_lost_acknowledged_operations_is_refused(folder):
    with open_store(folder, write=True) as store:
        check(store).save()
    journal = folder / "generation-1" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-2]))
    with open_store(folder) as store, pytest.raises(ValueError, match="ends at operation 68"):
        LiveRepository(store, CFG, WIDTH, F32)


def test_no_room_for_a_snapshot_leaves_everything_as_it_was(folder, monkeypatch):
    with open_store(folder, write=True) as store:
        live = check(store)
        live.save()

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("liveedit_jax.snapshot.replace_file", full)
        add(live, [400])
        with pytest.raises(OSError, match="No space"):
            live.save()
        assert check(store).snapshot_seq == 70
        shutil.rmtree(folder / "generation-1" / "snapshots")
        assert check(store).snapshot_seq == 0
