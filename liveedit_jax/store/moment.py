"""Reading what a repository holds, whole or what is new, with every checksum."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from liveedit_jax.store.records import Edit, Header, History, Request, State, checksum

COLUMNS = "id, picture, prompt, target, file, born, died, experts_n, checksum"


def read_state(db: sqlite3.Connection, path: Path) -> State:
    """Read where a repository stands.

    Raises:
        ValueError: the row is missing or damaged.
    """
    row = db.execute("SELECT * FROM repository WHERE id = 1").fetchone()
    if row is None or not _holds(row[1:]):
        raise damaged(path, "the row of its model and its clock")
    _, backbone, editor, tokenizer, shapes, dtype, *numbers, _ = row
    shapes = {name: tuple(shape) for name, shape in json.loads(shapes).items()}
    return State(Header(backbone, editor, tokenizer, shapes, dtype), *numbers)


def follow(db: sqlite3.Connection, path: Path, history: History | None) -> History:
    """Bring a history to the newest moment, inside a transaction.

    Args:
        db: the database.
        path: its name for errors.
        history: of an earlier moment, which is written over; None: everything is read.

    Raises:
        ValueError: an edit is damaged or missing.
    """
    state = read_state(db, path)
    if history is not None and history.state == state:
        return history
    if history is None or history.state.epoch != state.epoch:
        history, where, known = History(state), "", tuple[int, ...]()
    else:
        where, known = "WHERE id > ? OR died > ?", (history.state.last_id, history.state.clock)
    digest = history.state.digest if where else 0
    edits = []
    for row in db.execute(f"SELECT {COLUMNS} FROM edits {where} ORDER BY id", known):
        if not _holds(row):
            raise damaged(path, f"edit {row[0]}")
        edit_id, image, prompt, target, file, born, died, experts_n, own = row
        edits.append(Edit(edit_id, Request(image, prompt, target), born, died, experts_n, file))
        before = history.edits.get(edit_id)
        digest ^= own ^ (before.checksum if before else 0)
    if digest != state.digest:
        raise damaged(path, "the table of edits: some are missing")
    for edit in sorted(edits, key=lambda edit: edit.died or 0):
        history.take(edit)
    history.state = state
    return history


def damaged(path: Path, what: str) -> ValueError:
    """Say what is damaged, and the way on."""
    return ValueError(f"{path} is damaged ({what}); restore it from a backup")


def _holds(row: tuple) -> bool:
    """Tell whether a row's last column is the checksum of the others."""
    try:
        return checksum(*row[:-1]) == row[-1]
    except TypeError:  # bytes where there was a text
        return False
