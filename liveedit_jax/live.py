"""The repository in memory that follows a durable one: loaded once, then written in place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from liveedit_jax.config import EditorConfig, StorageConfig
from liveedit_jax.editor import repository
from liveedit_jax.store import History, Store
from liveedit_jax.types import Expert, Repository

CAPACITY_LEAST = 64
PUT_SIZES = (1, 16, 1024)  # rows added to memory in one call: few sizes, few compilations


@partial(jax.jit, donate_argnums=0)
def _add(
    repo: Repository,
    arrays: dict[str, Shaped[Array, "N ..."]],
    edit_id: Int[Array, " N"],
    valid: Bool[Array, " N"],
) -> Repository:
    expert = Expert(**{name: array.astype(jnp.float32) for name, array in arrays.items()})
    return repository.add_edits(repo, expert, edit_id, valid)[0]


_delete = jax.jit(repository.delete_edits, donate_argnums=0)


class _Seen(NamedTuple):
    """How far a history goes."""

    generation: int
    epoch: int
    last_id: int
    ended_n: int


def _extent(history: History) -> _Seen:
    state = history.state
    return _Seen(state.generation, state.epoch, state.last_id, len(history.ended))


class LiveRepository:
    """The arrays of a store's live edits.

    Threads may share it as they share the store: its lock is held while the arrays change.
    """

    _repo: Repository  # deleted where its memory is needed for what takes its place

    def __init__(self, store: Store, cfg: EditorConfig, width: int, storage: StorageConfig):
        """Load all live edits.

        Raises:
            ValueError: a stored expert is damaged.
        """
        self.store, self.cfg, self.width, self.storage = store, cfg, width, storage
        self._seen: _Seen | None = None  # None: the arrays are not there, or half-changed
        self.follow()

    @property
    def repo(self) -> Repository:
        """Give the arrays of the edits in the store's history, whatever came between before."""
        with self.store.lock:
            if self._seen is None or self._seen != _extent(self.store.history):
                self.follow()
            return self._repo

    def follow(self) -> None:
        """Bring store and arrays to the newest moment; this costs the changed edits alone.

        Raises:
            ValueError: a stored expert is damaged.
        """
        with self.store.transaction() as (_, history):
            seen, self._seen = self._seen, None
            new_seen = _extent(history)
            if seen is None or seen.generation != new_seen.generation:
                new, ended = self._load(history), []
            elif seen.epoch != new_seen.epoch:
                alive = np.asarray(repository.alive(self._repo))
                here = set(np.asarray(self._repo.edit_id)[alive].tolist())
                there = set(history.live.values())
                new, ended = sorted(there - here), sorted(here - there)
            else:
                later = range(seen.last_id + 1, new_seen.last_id + 1)
                new = [i for i in later if history.is_live(i)]
                ended = history.ended[seen.ended_n :]
            if self._is_borrowed and (new or ended):
                self._own()
            for edit_id in ended:
                self._repo = _delete(self._repo, np.asarray([edit_id]))
            if new:
                for ids, arrays in self.store.experts(new):
                    self._put(arrays, ids)
            self._seen = new_seen

    def _load(self, history: History) -> list[int]:
        """Make the arrays anew; returns the edits whose experts have yet to be put into them.

        Where memory has the format of the file, experts are read to where they stay.
        """
        live, storage, dtype = sorted(history.live.values()), self.storage, self.store.header.dtype
        capacity, experts_n = CAPACITY_LEAST, sum(history.edits[i].experts_n for i in live)
        while capacity < experts_n:
            capacity *= 2
        as_stored = storage.keys.value == storage.bodies.value == dtype
        self._is_borrowed = as_stored and experts_n > 0 and not storage.bodies_on_host
        if not self._is_borrowed:
            self._used_n = 0
            self._repo = repository.init_repository(self.cfg, self.width, capacity, storage)
            return live
        self._used_n = experts_n
        if hasattr(self, "_repo"):
            del self._repo
        ((ids, arrays),) = self.store.experts(None, capacity)
        self._repo = repository.from_stored(arrays, ids)
        return []

    def _own(self) -> None:
        """Copy the arrays, one at a time: XLA cannot write into memory that is NumPy's.

        It would copy them itself, but all at once.
        """
        leaves, tree = jax.tree.flatten(self._repo)
        del self._repo
        for i, leaf in enumerate(leaves):
            leaves[i] = jnp.copy(leaf)
        self._repo, self._is_borrowed = jax.tree.unflatten(tree, leaves), False

    def _put(self, arrays: dict[str, np.ndarray], ids: Sequence[int]) -> None:
        """Add at most `PUT_SIZES[-1]` experts; where there is no room, free dead rows or double."""
        n, capacity = len(ids), self._repo.born.shape[0]
        if self._used_n + n > capacity:
            self._repo = repository.reclaim(self._repo)
            self._used_n = int(self._repo.used_n)
            while self._used_n + n > capacity * 7 // 8:  # so that this is not due again at once
                capacity *= 2
            self._repo = repository.grow(self._repo, capacity)
        size = next(size for size in PUT_SIZES if size >= n)
        arrays = {name: array[:size] for name, array in arrays.items()}
        edit_id = np.asarray([*ids, *[-1] * (size - n)])
        self._repo = _add(self._repo, arrays, edit_id, np.arange(size) < n)
        self._used_n += n
