"""The repository in memory that follows a durable one: loaded once, then written in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from liveedit_jax.config import EditorConfig, StorageConfig
from liveedit_jax.editor import repository
from liveedit_jax.editor.rows import to_host
from liveedit_jax.snapshot import load_snapshot, save_snapshot
from liveedit_jax.store import Edit, Store
from liveedit_jax.types import Expert, Repository

CAPACITY_LEAST = 64
PUT_SIZES = (1, 16, 1024)  # rows added to memory in one call: few sizes, few compilations

_add = jax.jit(repository.add_edits, donate_argnums=0)
_delete = jax.jit(repository.delete_edits, donate_argnums=0)


class LiveRepository:
    """The arrays of a store's live edits, `repo`."""

    def __init__(self, store: Store, cfg: EditorConfig, width: int, storage: StorageConfig):
        """Load the newest snapshot and what came after it, or all rows.

        `skipped` then says which snapshots were not used, and why.

        Raises:
            ValueError: a stored expert is damaged.
        """
        self.store, self.cfg, self.width, self.storage = store, cfg, width, storage
        self.skipped: list[str] = []
        self.snapshot_seq = 0  # how many operations the newest snapshot holds
        self.load()

    @property
    def _snapshots(self) -> Path:
        return self.store.generation / "snapshots"

    def load(self) -> None:
        """Load everything again, from disk."""
        records = self.store.records() if self._snapshots.is_dir() else []
        like = jax.eval_shape(lambda: self._empty(1))
        repo, seq, self.skipped = load_snapshot(self._snapshots, like, records)
        if repo is not None:
            if self.storage.bodies_on_host:
                repo = repo.replace(down=to_host(repo.down), up=to_host(repo.up))
            self.repo, self.snapshot_seq = repo, seq
            self._replay(records[seq:])
            if self._ids() == sorted(self.store.history.live.values()):
                return
            self.skipped.append(f"snapshot {seq} was not used: it does not lead to the live edits")
        live = self.store.history.live_edits()
        self.repo, self.snapshot_seq = self._empty(len(live)), 0
        self._put_edits(live)

    def _empty(self, n: int) -> Repository:
        capacity = CAPACITY_LEAST
        while capacity < n:
            capacity *= 2
        return repository.init_repository(self.cfg, self.width, capacity, self.storage)

    def _ids(self) -> list[int]:
        alive = np.asarray(repository.alive(self.repo))
        return sorted(np.asarray(self.repo.edit_id)[alive].tolist())

    def _replay(self, records: Sequence[dict]) -> None:
        """Apply the operations after a snapshot; edits that have died since are left out."""
        history = self.store.history
        self._put_edits(
            [
                history.edits[r["id"]]
                for r in records
                if r["op"] == "edit" and history.is_live(r["id"])
            ]
        )
        ended = [r["id"] if r["op"] == "forget" else r["supersedes"] for r in records]
        dead = {edit_id for edit_id in ended if edit_id is not None}
        self.delete(sorted(dead - set(history.live.values())))

    def _put_edits(self, edits: Sequence[Edit]) -> None:
        for at in range(0, len(edits), PUT_SIZES[-1]):
            part = edits[at : at + PUT_SIZES[-1]]
            self.put(self.store.experts(part), [edit.id for edit in part])

    def put(self, arrays: dict[str, np.ndarray], ids: Sequence[int]) -> None:
        """Add at most `PUT_SIZES[-1]` experts; where there is no room, free dead rows or double."""
        n, capacity = len(ids), self.repo.born.shape[0]
        if int(self.repo.used_n) + n > capacity:
            self.repo = repository.reclaim(self.repo)
            while int(self.repo.used_n) + n > capacity:
                capacity *= 2
            self.repo = repository.grow(self.repo, capacity)
        size = next(size for size in PUT_SIZES if size >= n)
        rows = np.minimum(np.arange(size), n - 1)  # the last row again where there is none
        expert = Expert(**{name: array[rows] for name, array in arrays.items()})
        self.repo, _ = _add(self.repo, expert, np.asarray(ids)[rows], np.arange(size) < n)

    def add(self, arrays: dict[str, np.ndarray], ids: Sequence[int]) -> None:
        """Follow edits that the store has just taken: add their experts, end superseded ones."""
        self.put(arrays, ids)
        old = [self.store.history.edits[i].supersedes for i in ids]
        self.delete([i for i in old if i is not None])

    def delete(self, ids: Sequence[int]) -> None:
        """End the life of edits."""
        for edit_id in ids:
            self.repo = _delete(self.repo, np.asarray([edit_id]))

    def save(self) -> Path:
        """Write a snapshot of what is in memory.

        Raises:
            OSError: the disk is full or failing; edits are not touched.
        """
        records = self.store.records()
        home = save_snapshot(self._snapshots, self.repo, records)
        self.snapshot_seq = len(records)
        return home
