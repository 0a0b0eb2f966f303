"""Writing rows of edits and experts, inside a transaction, with their checksums."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from liveedit_jax.store.experts import expert_crc32
from liveedit_jax.store.records import Edit, Header, History, State
from liveedit_jax.store.schema import STATE

_EDIT = """INSERT INTO edits (id, picture, prompt, target, file, born, died, experts_n, checksum)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
    SET died = excluded.died, experts_n = excluded.experts_n, checksum = excluded.checksum"""
_EXPERT = """INSERT INTO experts (edit, generation, nth, shapes, dtype, crc32, data)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""


def write_edits(
    db: sqlite3.Connection,
    history: History,
    state: State,
    changed: dict[int, Edit],
    gone: Sequence[Edit] = (),
) -> None:
    """Write rows of edits, delete others, and say in the repository's row what is there now."""
    digest = state.digest
    for edit_id, edit in changed.items():
        before = history.edits.get(edit_id)
        digest ^= edit.checksum ^ (before.checksum if before else 0)
    for edit in gone:
        digest ^= edit.checksum
    db.executemany(
        _EDIT,
        (
            (edit.id, *vars(edit.request).values(), edit.file, edit.born, edit.died,
             edit.experts_n, edit.checksum)
            for edit in changed.values()
        ),
    )  # fmt: skip
    db.executemany("DELETE FROM edits WHERE id = ?", ((edit.id,) for edit in gone))
    db.execute(STATE, replace(state, digest=digest).row())


def write_experts(
    db: sqlite3.Connection, header: Header, generation: int, ids: Sequence[int], packed: list[bytes]
) -> None:
    """Write an expert each of edits that are in the table."""
    kind = json.dumps(header.shapes), header.dtype
    rows = (
        (i, generation, 0, *kind, expert_crc32(generation, i, 0, *kind, data), data)
        for i, data in zip(ids, packed, strict=True)
    )
    db.executemany(_EXPERT, rows)
