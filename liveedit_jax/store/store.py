"""An open repository file: every operation is one transaction, and memory follows the file.

An edit, its picture and its expert are written together; ids come out after the commit, and then
the one file is complete. The history in memory is dropped while it changes, so that whatever
interrupts an operation, it is read again from the file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from liveedit_jax.store.experts import Rows, expert_crc32, pack
from liveedit_jax.store.moment import damaged, follow
from liveedit_jax.store.records import (
    Edit,
    Header,
    History,
    Request,
    State,
    image_sha256,
    rebuild_command,
)
from liveedit_jax.store.schema import (
    check_path,
    connect,
    create_database,
    explained,
    whole_size,
)
from liveedit_jax.store.writing import write_edits, write_experts

BLOCK_N = 1024  # experts read at a time

_PICTURE = """INSERT INTO pictures (sha256, bytes) VALUES (?, ?) ON CONFLICT (sha256) DO UPDATE
    SET bytes = excluded.bytes WHERE bytes IS NOT excluded.bytes"""  # a damaged one is repaired
# CROSS JOIN: in this order, so that experts are read from the first to the last.
_EXPERTS = """SELECT edit, nth, shapes, dtype, crc32, data FROM experts CROSS JOIN edits
    ON edits.id = edit WHERE generation = ? AND died IS NULL {chosen} ORDER BY experts.id"""


class Store:
    """An open repository: what lives in it, and the operations that change it durably.

    Threads may share it. `lock` is held during each operation; hold it over several.
    """

    def __init__(self, path: Path, write: bool):
        """Use `open_store`."""
        self.path, self.writable, self.lock = path, write, threading.RLock()
        self._file, self._pid = Path(os.path.abspath(path)), os.getpid()
        self._history: History | None = None
        found = check_path(path, write)
        self._identity = found.st_dev, found.st_ino
        with explained(path):
            self._db: sqlite3.Connection | None = connect(self._file, write)
        _open.add(self)
        try:
            with self.transaction() as (db, history):
                self.header = history.state.header
                if os.stat(path).st_size < whole_size(db):
                    raise damaged(path, "it was cut short")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Store:
        """Give the store itself."""
        return self

    def __exit__(self, *_) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file. Everything was durable before."""
        if self._pid == os.getpid():  # a forked child must not touch what its parent has open
            with self.lock:
                db, self._db = self._db, None
                if db is not None:
                    db.close()

    def check_process(self) -> None:
        """Refuse a forked child: two processes must not share what SQLite has open."""
        if self._pid != os.getpid():
            raise ValueError(
                f"{self.path} was opened before this process was forked: open it again here"
            )

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[tuple[sqlite3.Connection, History]]:
        """Do what a block does as a whole, or not at all; memory is brought to this moment first.

        Args:
            write: it changes the file.

        Raises:
            BlockingIOError: another process has been writing for too long.
            OSError: the disk is full or failing, or another file is at the path.
            ValueError: the file is damaged, closed, or open for reading only.
        """
        self.check_process()
        with self.lock:
            with self._begun(write) as db:
                history = self._history = self._follow(db)
                yield db, history
                if write:
                    history = self._follow(db)
            self._history = history

    @contextmanager
    def _begun(self, write: bool) -> Iterator[sqlite3.Connection]:
        """Do what a block does to the database as a whole; errors as `transaction`."""
        self.check_process()
        with self.lock, explained(self.path):
            db = self._db
            if db is None:
                raise ValueError(f"{self.path} is closed")
            if write and not self.writable:
                raise ValueError(
                    f"{self.path} is open for reading only: open it with write=True to change it"
                )
            if db.in_transaction:  # an interrupt has left it
                db.rollback()
            db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                self._check_file()
                yield db
                self._check_file()
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.rollback()
                raise

    def _follow(self, db: sqlite3.Connection) -> History:
        """Bring the history to this moment; until the caller keeps it, there is none."""
        history, self._history = self._history, None
        history = follow(db, self.path, history)
        if getattr(self, "header", history.state.header) != history.state.header:
            raise ValueError(f"{self.path} was rebuilt with another model meanwhile: open it again")
        return history

    def _check_file(self) -> None:
        try:
            found = os.stat(self._file)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            raise OSError(
                f"{self.path} was moved, removed or replaced while it was open: nothing was "
                "changed; open it again where it is now"
            )

    @property
    def history(self) -> History:
        """Give the edits of the moment that memory is at."""
        history = self._history
        if history is None or self._pid != os.getpid():
            with self.transaction() as (_, history):
                pass
        return history

    def refresh(self) -> None:
        """Follow what other processes have done; this costs their edits alone."""
        with self.transaction():
            pass

    def picture(self, sha256: str | None) -> bytes:
        """Read a picture.

        Raises:
            ValueError: it is missing or damaged, or a request has none (None).
        """
        if sha256 is None:
            raise ValueError("the request has no picture")
        with self._begun(write=False) as db:
            found = db.execute("SELECT bytes FROM pictures WHERE sha256 = ?", (sha256,)).fetchone()
        if found is None or type(found[0]) is not bytes or image_sha256(found[0]) != sha256:
            raise ValueError(
                f"the picture {sha256[:12]} in {self.path} is damaged or missing; an edit that "
                "brings it again repairs it"
            )
        return found[0]

    def find(self, request: Request) -> int | None:
        """Find the live edit that says exactly this, where it is whole: else it is made again."""
        history = self.history
        edit_id = history.live.get(request.subject)
        if edit_id is None or history.edits[edit_id].request != request:
            return None
        try:
            if request.image is not None:
                self.picture(request.image)
        except ValueError:
            return None
        return edit_id if history.edits[edit_id].experts_n else None

    def fitting_n(self, requests: Sequence[Request], max_edits: int) -> int:
        """Count how many leading requests fit `max_edits` live edits.

        A superseding one takes no room.

        Raises:
            OverflowError: not even the first one fits.
        """
        live, fresh = self.history.live, set()
        for i, request in enumerate(requests):
            if request.subject not in live:
                fresh.add(request.subject)
            if fresh and len(live) + len(fresh) > max_edits:
                if i:
                    return i
                raise OverflowError(
                    f"the repository {self.path} is full: {len(live)} live edits of at most "
                    f"{max_edits}; forget some or raise --max-edits"
                )
        return len(requests)

    def add_edits(
        self,
        requests: Sequence[Request],
        arrays: dict[str, np.ndarray],
        pictures: Sequence[bytes | None],
        files: Sequence[str | None] | None = None,
    ) -> list[int]:
        """Store edits, their pictures and experts; they are durable when their ids come back.

        Args:
            requests: what was asked for.
            arrays: the experts' arrays [N, ...].
            pictures: their bytes; None: of a request without a picture.
            files: the names of the pictures' files; None: not known.
        """
        files = [None] * len(requests) if files is None else files
        with self.transaction(write=True) as (db, history):
            state, header = history.state, self.header
            changed: dict[int, Edit] = {}
            live: dict[tuple[str | None, str], int] = {}
            clock, edit_id = state.clock, state.last_id
            packed = pack(header, arrays)
            if len(packed) != len(requests):
                raise ValueError(f"{len(requests)} requests with {len(packed)} experts")
            for request, picture, file in zip(requests, pictures, files, strict=True):
                if request.image != (None if picture is None else image_sha256(picture)):
                    raise ValueError(f"the picture given is not {request.image}")
                if picture is not None:
                    db.execute(_PICTURE, (request.image, picture))
                clock, edit_id = clock + 1, edit_id + 1
                old = live.get(request.subject, history.live.get(request.subject))
                if old is not None:
                    changed[old] = replace(changed.get(old) or history.edits[old], died=clock)
                changed[edit_id] = Edit(edit_id, request, clock, None, 1, file)
                live[request.subject] = edit_id
            operations = state.operations + len(requests)
            state = replace(state, clock=clock, operations=operations, last_id=edit_id)
            write_edits(db, history, state, changed)
            ids = list(range(edit_id - len(requests) + 1, edit_id + 1))
            write_experts(db, header, state.generation, ids, packed)
        return ids

    def forget(self, edit_id: int) -> None:
        """End the life of one edit; `rollback` can undo this.

        Raises:
            ValueError: there is no such live edit.
        """
        with self.transaction(write=True) as (db, history):
            self._check_id(history, edit_id)
            if not history.is_live(edit_id):
                raise ValueError(f"edit {edit_id} is not live any more (forgotten or superseded)")
            state = history.state
            state = replace(state, clock=state.clock + 1, operations=state.operations + 1)
            ended = replace(history.edits[edit_id], died=state.clock)
            write_edits(db, history, state, {edit_id: ended})

    def rollback(self, operations_n: int) -> None:
        """Undo the last operations: later edits are deleted, later deaths undone.

        Raises:
            ValueError: not a positive number, or more than there are.
        """
        if operations_n < 1:
            raise ValueError(f"cannot roll back {operations_n} operations: give a number from 1 up")
        with self.transaction(write=True) as (db, history):
            state = history.state
            if operations_n > state.clock:
                raise ValueError(
                    f"cannot roll back {operations_n} operations: "
                    f"there are only {state.clock} to undo"
                )
            clock, edits = state.clock - operations_n, history.edits.values()
            gone = [edit for edit in edits if edit.born > clock]
            back = {
                edit.id: replace(edit, died=None)
                for edit in edits
                if edit.born <= clock and edit.died is not None and edit.died > clock
            }
            operations = state.operations + 1
            state = replace(state, clock=clock, operations=operations, epoch=state.epoch + 1)
            write_edits(db, history, state, back, gone)

    def purge(self, edit_id: int) -> bool:
        """Erase an edit, live or not: its request, its expert, and its picture if no other has it.

        Returns:
            Whether the picture stays, because another edit has it.

        Raises:
            ValueError: there is no such edit.
        """
        with self.transaction(write=True) as (db, history):
            self._check_id(history, edit_id)
            edit = history.edits[edit_id]
            state = replace(history.state, epoch=history.state.epoch + 1)
            write_edits(db, history, state, {}, [edit])
            image = edit.request.image
            kept = "SELECT count(*) FROM pictures WHERE sha256 = ?"
            return bool(db.execute(kept, (image,)).fetchone()[0])

    def _check_id(self, history: History, edit_id: int) -> None:
        if edit_id not in history.edits:
            raise ValueError(f"there is no edit {edit_id}; `liveedit list` shows the live ones")

    def experts(
        self, ids: Sequence[int] | None = None, block_n: int = BLOCK_N
    ) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """Read live edits' experts, inside a transaction, from the first stored to the last.

        Args:
            ids: of which edits; None: of all.
            block_n: the most experts to give at a time.

        Yields:
            The ids of N edits, and arrays [block_n, ...] in the dtype in which they are stored: the
            experts of these edits, and then zeros.

        Raises:
            ValueError: an expert is damaged; its request is not, so it can be re-made.
        """
        db, history = self._db, self._history
        assert db is not None and history is not None  # inside a transaction
        wanted = history.live.values() if ids is None else ids
        waiting = {i: history.edits[i].experts_n for i in wanted if history.edits[i].experts_n}
        chosen, given = "", tuple[str, ...]()
        if ids is not None:
            chosen, given = "AND edit IN (SELECT value FROM json_each(?))", (json.dumps([*ids]),)
        generation, rows = history.state.generation, Rows(self.header, block_n)
        # Row by row: the next one takes the same memory, and finds it in the processor's cache.
        sql = _EXPERTS.format(chosen=chosen)
        for edit_id, nth, shapes, dtype, crc32, data in db.execute(sql, (generation, *given)):
            if len(rows.ids) == block_n:
                yield rows.ids, rows.arrays()
                rows = Rows(self.header, block_n)
            try:
                if crc32 != expert_crc32(generation, edit_id, nth, shapes, dtype, data):
                    raise ValueError("its checksum does not hold")
                waiting[edit_id] -= 1
                if waiting[edit_id] < 0:
                    raise ValueError("there is one too many")
                rows.add(edit_id, shapes, dtype, data)
            except (ValueError, TypeError, KeyError, IndexError) as error:
                raise self._damaged_expert(edit_id) from error
        if rows.ids:
            yield rows.ids, rows.arrays()
        for edit_id, missing_n in waiting.items():
            if missing_n:
                raise self._damaged_expert(edit_id)

    def _damaged_expert(self, edit_id: int) -> ValueError:
        return ValueError(
            f"the stored expert of edit {edit_id} is damaged; {rebuild_command(self.path)}, with "
            "the model that made it, re-makes it from its request"
        )


def open_store(path: str | Path, write: bool = False, create: Header | None = None) -> Store:
    """Open a repository.

    Args:
        path: its file.
        write: it may be changed. Several may write in turn; each follows the others first.
        create: describes a new repository, should there be none (needs `write`).

    Raises:
        FileNotFoundError: no repository, and none to be made.
        BlockingIOError: another process has been writing for too long.
        ValueError: the file is damaged, or something else.
    """
    path = Path(path)
    if write and create is not None and not path.exists():
        with explained(path):
            create_database(Path(os.path.abspath(path)), State(create))
    return Store(path, write)


def read_header(path: str | Path) -> Header:
    """Read which model a repository belongs to; errors as `open_store`."""
    with open_store(path) as store:
        return store.header


# Stores that are open. A child that is forked in the middle of a transaction would undo it when it
# ends, under its parent's hands; so a fork waits until there is none.
_open: weakref.WeakSet[Store] = weakref.WeakSet()
_held: list[Store] = []


def _before_fork() -> None:
    _held[:] = _open
    for store in _held:
        store.lock.acquire()


def _after_fork() -> None:
    while _held:
        _held.pop().lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
