"""Files that are moved, cut or changed, under an open repository too: nothing is lost silently."""

import errno
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import small_store
from small_store import HEADER, add, check, fill, picture, request

from experiments.checks.damaged_files import check_damage
from liveedit_jax.store import open_store, schema


def test_a_deleted_journal_is_said_and_leaves_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "repo"
    with open_store(path, write=True, create=HEADER) as store:
        add(store, 1)
        check_file = store._check_file

        def delete_journal():
            check_file()
            (tmp_path / "repo-journal").unlink(missing_ok=True)

        with monkeypatch.context() as patch:
            patch.setattr(store, "_check_file", delete_journal)
            with pytest.raises(OSError, match="journal"):
                add(store, 2, 3)
        assert check(store) in ({1: "t1"}, {1: "t1", 2: "t2", 3: "t3"})
        (last,) = add(store, 4)
        live = check(store)
        assert live[last] == "t4"
    with open_store(path) as store:
        assert check(store) == live


def test_two_writers_take_turns_and_lose_nothing(tmp_path):
    path = tmp_path / "repo"
    with (
        open_store(path, write=True, create=HEADER) as a,
        open_store(path, write=True, create=HEADER) as b,
    ):
        assert (add(a, 1), add(b, 2, 3), add(a, 4)) == ([1], [2, 3], [4])
        b.forget(1)
        a.rollback(2)  # the forgetting, and edit 4
        assert check(a) == {1: "t1", 2: "t2", 3: "t3"}
    with open_store(path) as store:
        assert check(store) == {1: "t1", 2: "t2", 3: "t3"}


def test_a_writer_that_does_not_end_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_S", 0.1)
    path = tmp_path / "repo"
    fill(path, 1)
    with open_store(path, write=True) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BlockingIOError, match=f"another process is writing to {path}"):
            add(store, 2)
        with open_store(path) as reader:
            assert check(reader) == {1: "t0"}
        other.rollback()
        assert add(store, 2) == [2]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_no_process_is_blamed_where_the_file_system_has_no_locks(tmp_path, monkeypatch, number):
    monkeypatch.setattr(schema, "BUSY_S", 0.0)
    path = tmp_path / "repo"
    fill(path, 1)

    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", lockf)  # and SQLite takes ENOLCK for a lock of others
    with open_store(path, write=True) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match="has no file locks"):
            add(store, 2)


@pytest.mark.parametrize(
    ("code", "error", "match"),
    [
        (sqlite3.SQLITE_IOERR_LOCK, OSError, "no file locks"),
        (sqlite3.SQLITE_FULL, OSError, "No space left"),
        (sqlite3.SQLITE_IOERR_FSYNC, OSError, "could not be .* written"),
        (sqlite3.SQLITE_CANTOPEN, OSError, "could not be opened"),
        (sqlite3.SQLITE_READONLY, PermissionError, "Permission denied"),
        (sqlite3.SQLITE_NOMEM, MemoryError, "no memory"),
        (sqlite3.SQLITE_CORRUPT, ValueError, "damaged"),
    ],
)
def test_sqlites_errors_are_explained(tmp_path, code, error, match):
    raised = sqlite3.OperationalError("what SQLite says")
    raised.sqlite_errorcode = code
    with pytest.raises(error, match=match), schema.explained(tmp_path / "repo"):
        raise raised


@pytest.mark.parametrize("how", ["renamed", "replaced", "removed", "folder renamed"])
def test_a_file_that_was_moved_takes_no_edit_and_keeps_all(tmp_path, how):
    (tmp_path / "home").mkdir()
    path, kept = tmp_path / "home" / "repo", tmp_path / "kept"
    with open_store(path, write=True, create=HEADER) as store:
        add(store, 1)
        match how:
            case "folder renamed":
                path.parent.rename(kept)
                kept = kept / "repo"
            case "removed":
                shutil.copyfile(path, kept)
                path.unlink()
            case _:
                path.rename(kept)
        if how == "replaced":
            fill(path, 2)
        for refused in (lambda: add(store, 4), lambda: store.forget(1), store.refresh):
            with pytest.raises(OSError, match="was moved, removed or replaced"):
                refused()
        if how == "replaced":
            fill(path, 1, 2)
    with open_store(kept, write=True) as store:
        assert check(store) == {1: "t1"}
        add(store, 2)
    if how == "replaced":
        with open_store(path) as store:
            assert check(store) == {1: "t0", 2: "t1", 3: "t2"}
    else:
        assert not path.exists()


def test_a_relative_path_stays_what_it_was(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_store("repo", write=True, create=HEADER) as store:
        add(store, 1)
        monkeypatch.chdir("other")
        fill(Path("repo"), 2)
        assert add(store, 3) == [2]
    with open_store(tmp_path / "repo") as store:
        assert check(store) == {1: "t1", 2: "t3"}


def in_the_middle(path, copy):
    """Copy a repository and its journal while edits are being written to the file."""
    with open_store(path, write=True) as store:

        class Stop(Exception):
            pass

        with pytest.raises(Stop), store.transaction(write=True) as (db, _):
            db.execute("PRAGMA cache_size = 2")
            db.execute("UPDATE edits SET target = 'half-written'")
            db.execute("UPDATE experts SET data = zeroblob(100000)")
            for suffix in ("", "-journal"):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            raise Stop


def test_a_power_cut_in_the_middle_of_a_write_undoes_it(tmp_path):
    path, copy = tmp_path / "repo", tmp_path / "copy"
    fill(path, 40)
    in_the_middle(path, copy)
    assert copy.read_bytes() != path.read_bytes()
    with open_store(copy) as store:  # a reader can undo it
        assert len(check(store)) == 40
    assert not Path(f"{copy}-journal").exists()


def test_pages_of_a_power_cut_come_in_any_order(tmp_path):
    path, copy = tmp_path / "repo", tmp_path / "copy"
    fill(path, 40)
    in_the_middle(path, copy)
    half, old, journal = copy.read_bytes(), path.read_bytes(), Path(f"{copy}-journal").read_bytes()
    rng, size = random.Random(0), schema.PAGE_BYTES
    for _ in range(20):
        pages = bytearray(half)
        for at in range(0, len(old), size):
            if rng.random() < 0.5:  # this page had not been written yet, or only in part
                pages[at : at + size] = old[at : at + size]
                pages[at + size // 2 : at + size] = half[at + size // 2 : at + size]
        if rng.random() < 0.5:
            del pages[len(old) :]
        copy.write_bytes(pages)
        Path(f"{copy}-journal").write_bytes(journal)
        with open_store(copy, write=True) as store:
            assert len(check(store)) == 40
            add(store, 41)


def test_a_file_that_was_cut_short_or_changed_is_refused_or_holds_all(tmp_path):
    path, copy, rng = tmp_path / "repo", tmp_path / "copy", random.Random(0)
    with open_store(path, write=True, create=HEADER) as store:
        add(store, *range(30))
        store.forget(3)
        live = check(store)
    data, refused = path.read_bytes(), 0
    cuts = [data[:n] for n in (0, 1, 50, 100, *range(4096, len(data), 4096), len(data) - 1)]
    flips = []
    for _ in range(250):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 8))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        flips.append(changed)
    for damaged in (*cuts, *flips):
        copy.write_bytes(damaged)
        try:
            with open_store(copy) as store:
                assert check(store) == live
        except (ValueError, OSError):
            refused += 1
        else:
            assert len(damaged) == len(data)
    assert refused > len(cuts) + 20


def test_damage_by_disks_and_by_other_programs_is_refused_or_harmless(tmp_path):
    count = check_damage(tmp_path, 80)  # raises where one is neither
    assert count["refused"] > 40 and count["refused"] + count["the same edits"] == 80


def test_a_damaged_picture_is_repaired_by_an_edit_that_brings_it_again(tmp_path):
    path = tmp_path / "repo"
    fill(path, 2)
    whole = path.read_bytes()
    for damage in ("UPDATE pictures SET bytes = x'00'", "UPDATE pictures SET bytes = 'text'"):
        path.write_bytes(whole)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(damage)
        with open_store(path, write=True) as store:
            with pytest.raises(ValueError, match="an edit that brings it again repairs it"):
                store.picture(request(0).image)
            assert store.find(request(0)) is None  # so that it is not taken for stored
            add(store, 0)
            assert store.picture(request(0).image) == picture(0) and store.find(request(0)) == 3


IMPORTS = f"""
import sys
sys.path.insert(0, {str(Path(small_store.__file__).parent)!r})
from small_store import check
from liveedit_jax.store import open_store
"""
READ_AND_WRITE = """
with open_store(sys.argv[1]) as store:
    print(check(store))
try:
    open_store(sys.argv[1], write=True)
except PermissionError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_permissions_are_said(tmp_path, run_without_rights):
    path = tmp_path / "repo"
    fill(path, 1)
    path.chmod(0o444)
    read, wrote = run_without_rights(IMPORTS, READ_AND_WRITE, path).stdout.splitlines()
    assert read == "{1: 't0'}"
    assert wrote.startswith("PermissionError") and str(path) in wrote
