"""The expert repository E_t: static arrays with a clock, which are written in place.

Row c is alive at time t iff born <= t < died. Deleting an edit, and looking at the repository as of
time t, are thus masks, and no row moves. Jit these functions with the repository donated: adding N
edits then costs O(N), whatever the capacity.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from liveedit_jax.config import EditorConfig, StorageConfig
from liveedit_jax.editor import rows
from liveedit_jax.types import Axis, Expert, Repository

F32 = StorageConfig()
STORED = ("text_key", "vision_key", "down", "up")  # the fields that store an expert's arrays
NEVER = jnp.iinfo(jnp.int32).max  # born: the row is free; died: the edit is live


def init_repository(
    cfg: EditorConfig, width: int, capacity: int, storage: StorageConfig = F32
) -> Repository:
    """Create an empty repository of `capacity` rows for a decoder of `width` D.

    Raises:
        ValueError: capacity < 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity={capacity}: a repository needs at least one row")
    body = (capacity, cfg.rank, width)
    down, up = (rows.empty_rows(body, storage.bodies) for _ in range(2))
    if storage.bodies_on_host:
        down, up = rows.to_host(down), rows.to_host(up)
    return Repository(
        text_key=rows.empty_rows((capacity, cfg.text_key_n), storage.keys),
        vision_key=rows.empty_rows((capacity, cfg.vision_key_n), storage.keys),
        down=down,
        up=up,
        edit_id=jnp.full(capacity, -1, jnp.int32),
        born=jnp.full(capacity, NEVER, jnp.int32),
        died=jnp.full(capacity, NEVER, jnp.int32),
        clock=jnp.zeros((), jnp.int32),
        used_n=jnp.zeros((), jnp.int32),
    )


def from_stored(value: dict[str, np.ndarray], edit_id: Sequence[int]) -> Repository:
    """Make a repository of N experts whose arrays are in its storage format already.

    Args:
        value: the arrays of `STORED` [C, ...], float32 or bfloat16; of the rows from N on, zeros.
            They must not be written to any more.
        edit_id: the N experts' edits. They are born one after another.
    """
    n, row = len(edit_id), jnp.arange(len(value[STORED[0]]), dtype=jnp.int32)
    return Repository(
        **{name: rows.from_stored(value[name]) for name in STORED},
        edit_id=jnp.full(row.shape, -1, jnp.int32).at[:n].set(jnp.asarray(edit_id, jnp.int32)),
        born=jnp.where(row < n, row + 1, NEVER),
        died=jnp.full(row.shape, NEVER, jnp.int32),
        clock=jnp.asarray(n, jnp.int32),
        used_n=jnp.asarray(n, jnp.int32),
    )


def first_row(row_n: int, axis: Axis | None) -> Int[Array, ""] | int:
    """Return the index of this device's first row, where each has `row_n`; 0 without mesh axis."""
    return 0 if axis is None else jax.lax.axis_index(axis) * row_n


def check_room(repo: Repository, n: int) -> None:
    """Check, on the host, that `add_edits` can add `n` edits.

    Raises:
        ValueError: fewer than `n` rows are free.
    """
    used, capacity = int(repo.used_n), repo.born.shape[0]
    if used + n > capacity:
        raise ValueError(
            f"the repository is full: {used} of {capacity} rows are used and {n} more are needed; "
            "grow it, or reclaim deleted rows"
        )


def alive(
    repo: Repository, at: Int[Array, ""] | Int[Array, "B 1"] | None = None
) -> Bool[Array, " C"] | Bool[Array, "B C"]:
    """Return the mask of rows that are alive now, or as of clock `at` (or of one clock each)."""
    at = repo.clock if at is None else at
    return (repo.born <= at) & (at < repo.died)


def add_edits(
    repo: Repository,
    expert: Expert,
    edit_id: Int[Array, " N"],
    valid: Bool[Array, " N"],
    axis: Axis | None = None,
) -> tuple[Repository, Int[Array, " N"]]:
    """Append N experts; the clock advances by one for each valid one.

    Args:
        repo: the state (donate it).
        expert: N experts.
        edit_id: the user's ids.
        valid: False for experts that are padding, which are not written.
        axis: the mesh axis that rows are split over; every device gets all N experts.

    Returns:
        The state, and each edit's row: -1 if it was not written, because it is invalid or there is
        no room (call `check_room` first).
    """
    c = repo.born.shape[0]
    capacity = c * (1 if axis is None else jax.lax.axis_size(axis))
    nth = jnp.cumsum(valid) - 1
    row = jnp.where(valid, repo.used_n + nth, capacity)
    written = row < capacity
    here = row - first_row(c, axis)
    here = jnp.where(written & (here >= 0) & (here < c), here, c)  # out of bounds: dropped

    def put_key(kept, key):
        return rows.put(kept, here, rows.rotate(key, kept))

    def put_one(leaf, value):
        return leaf.at[here].set(value, mode="drop")

    born = repo.clock + 1 + nth
    repo = repo.replace(
        text_key=put_key(repo.text_key, expert.text_key),
        vision_key=put_key(repo.vision_key, expert.vision_key),
        down=rows.put(repo.down, here, expert.down),
        up=rows.put(repo.up, here, expert.up),
        edit_id=put_one(repo.edit_id, edit_id),
        born=put_one(repo.born, born),
        died=put_one(repo.died, jnp.full_like(born, NEVER)),
        clock=repo.clock + written.sum(),
        used_n=repo.used_n + written.sum(),
    )
    return repo, jnp.where(written, row, -1)


def delete_edits(repo: Repository, edit_id: Int[Array, " N"]) -> Repository:
    """Delete all live edits with these ids; the clock advances by one."""
    clock = repo.clock + 1
    chosen = jnp.isin(repo.edit_id, edit_id) & alive(repo)
    return repo.replace(died=jnp.where(chosen, clock, repo.died), clock=clock)


def undelete_edits(repo: Repository, edit_id: Int[Array, " N"]) -> Repository:
    """Restore all deleted edits with these ids; the clock advances by one."""
    chosen = jnp.isin(repo.edit_id, edit_id) & (repo.born <= repo.clock)
    return repo.replace(died=jnp.where(chosen, NEVER, repo.died), clock=repo.clock + 1)


def rollback(repo: Repository, clock: Int[Array, ""], axis: Axis | None = None) -> Repository:
    """Discard the history after `clock`: free rows born later, and undo later deletions."""
    clock = jnp.minimum(jnp.asarray(clock, jnp.int32), repo.clock)
    kept = repo.born <= clock
    used_n = kept.sum().astype(jnp.int32)
    return repo.replace(
        edit_id=jnp.where(kept, repo.edit_id, -1),
        born=jnp.where(kept, repo.born, NEVER),
        died=jnp.where(kept & (repo.died <= clock), repo.died, NEVER),
        clock=clock,
        used_n=used_n if axis is None else jax.lax.psum(used_n, axis),
    )


def reclaim(repo: Repository) -> Repository:
    """Move live rows to the front, in order, and free the others; rollback cannot restore them."""
    keep = alive(repo)
    order = jnp.argsort(~keep, stable=True)
    kept = {name: rows.pick(getattr(repo, name), order) for name in STORED}
    keep = keep[order]
    return repo.replace(
        **kept,
        edit_id=jnp.where(keep, repo.edit_id[order], -1),
        born=jnp.where(keep, repo.born[order], NEVER),
        died=jnp.full_like(repo.died, NEVER),
        used_n=keep.sum().astype(jnp.int32),
    )


def grow(repo: Repository, capacity: int) -> Repository:
    """Enlarge a repository to `capacity` rows.

    Raises:
        ValueError: `capacity` is below the present one.
    """
    more = capacity - repo.born.shape[0]
    if more < 0:
        raise ValueError(f"capacity={capacity} is below the present {repo.born.shape[0]}")

    def pad(leaf, value):
        return jnp.pad(leaf, (0, more), constant_values=value)

    return repo.replace(
        **{name: rows.pad(getattr(repo, name), more) for name in STORED},
        edit_id=pad(repo.edit_id, -1),
        born=pad(repo.born, NEVER),
        died=pad(repo.died, NEVER),
    )
