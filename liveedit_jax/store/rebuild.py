"""Re-making every expert from the recorded requests with another model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from liveedit_jax.store.experts import pack
from liveedit_jax.store.records import Edit, Header
from liveedit_jax.store.store import Store, open_store
from liveedit_jax.store.writing import write_edits, write_experts

Skipped = dict[int, str]  # id -> why its expert could not be made
Make = Callable[[Store, Sequence[Edit]], tuple[dict[str, np.ndarray], Skipped]]


@dataclass(frozen=True)
class Rebuilt:
    """Count the experts that were made again, and say whose could not be."""

    made_n: int
    skipped: Skipped


def rebuild(path: str | Path, header: Header, make: Make, batch_n: int) -> Rebuilt:
    """Give a repository the experts of another model; ids, order and what can be undone stay.

    New experts are written beside the old ones, and one transaction exchanges them: a kill leaves
    the old ones. An edit that cannot be re-made keeps its request; it has no expert and cannot fire
    until it is made again.

    Args:
        path: the repository.
        header: describes the new model.
        make: edits to the arrays [N, ...] of those that it does not skip, and why it skips some.
        batch_n: at most so many edits for one call of `make`.

    Raises:
        ValueError: not one edit could be re-made; the repository stays as it was.
    """
    with open_store(path, write=True) as store:
        generation = store.history.state.generation
        with store.transaction(write=True) as (db, _):  # what a killed rebuild has left
            db.execute("DELETE FROM experts WHERE generation != ?", (generation,))
        made: set[int] = set()
        skipped: Skipped = {}
        while True:
            edits = store.history.edits.values()
            left = [edit for edit in edits if edit.id not in made and edit.id not in skipped]
            if not left and skipped and not made:
                raise ValueError(
                    f"none of the {len(skipped)} edits could be re-made "
                    f"({next(iter(skipped.values()))}); {path} stays as it was"
                )
            if not left and _exchange(store, header, generation, made, skipped):
                return Rebuilt(len(made), skipped)
            for at in range(0, len(left), batch_n):
                part = left[at : at + batch_n]
                arrays, refused = make(store, part)
                skipped |= refused
                ids = [edit.id for edit in part if edit.id not in refused]
                if ids:
                    with store.transaction(write=True) as (db, history):
                        here = [i for i, edit_id in enumerate(ids) if edit_id in history.edits]
                        packed = pack(header, {name: each[here] for name, each in arrays.items()})
                        ids = [ids[i] for i in here]
                        write_experts(db, header, generation + 1, ids, packed)
                    made |= set(ids)


def _exchange(
    store: Store, header: Header, generation: int, made: set[int], skipped: Skipped
) -> bool:
    """Make the new experts the repository's; False: there are new edits that have none yet."""
    with store.transaction(write=True) as (db, history):
        if history.state.generation != generation:
            raise ValueError(f"{store.path} was rebuilt by another process meanwhile: try again")
        if any(i not in made and i not in skipped for i in history.edits):
            return False
        db.execute("PRAGMA secure_delete = OFF")  # experts are numbers, and may be gigabytes
        db.execute("DELETE FROM experts WHERE generation = ?", (generation,))
        changed = {
            i: replace(edit, experts_n=int(i in made))
            for i, edit in history.edits.items()
            if edit.experts_n != int(i in made)
        }
        epoch = history.state.epoch + 1
        state = replace(history.state, header=header, generation=generation + 1, epoch=epoch)
        write_edits(db, history, state, changed)
        store.header = header
    return True
