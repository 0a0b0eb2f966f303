"""The expert repository E_t: static arrays on an edit clock, written in place, never concatenated.

Row c is alive at time t iff born <= t < died, so deleting and looking at "as of edit t" are masks
and nothing moves. Jit these with the repository donated: an edit then costs O(N), whatever C holds.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from liveedit_jax.config import EditorConfig
from liveedit_jax.types import Expert, Repository

NEVER = jnp.iinfo(jnp.int32).max  # born: the row is free; died: the edit is live


def init_repository(cfg: EditorConfig, width: int, capacity: int) -> Repository:
    """An empty repository of `capacity` rows.

    Raises:
        ValueError: capacity < 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity={capacity}: a repository needs at least one row")
    key_width = cfg.queries_n * cfg.module_width
    body = (capacity, cfg.rank, width)
    return Repository(
        text_key=jnp.zeros((capacity, key_width)),
        vision_key=jnp.zeros((capacity, key_width)),
        down=jnp.zeros(body),
        up=jnp.zeros(body),
        edit_id=jnp.full(capacity, -1, jnp.int32),
        born=jnp.full(capacity, NEVER, jnp.int32),
        died=jnp.full(capacity, NEVER, jnp.int32),
        clock=jnp.zeros((), jnp.int32),
        used_n=jnp.zeros((), jnp.int32),
    )


def check_room(repo: Repository, n: int) -> None:
    """Host check before `add_edits`.

    Raises:
        ValueError: fewer than `n` free rows.
    """
    used, capacity = int(repo.used_n), repo.born.shape[0]
    if used + n > capacity:
        raise ValueError(
            f"the repository is full: {used} of {capacity} rows are used and {n} more are needed; "
            "grow it, or reclaim deleted rows"
        )


def alive(repo: Repository, at: Int[Array, ""] | None = None) -> Bool[Array, " C"]:
    """Which rows are live now, or as of clock `at`."""
    at = repo.clock if at is None else at
    return (repo.born <= at) & (at < repo.died)


def add_edits(
    repo: Repository, expert: Expert, edit_id: Int[Array, " N"], valid: Bool[Array, " N"]
) -> tuple[Repository, Int[Array, " N"]]:
    """Append N experts; the clock ticks once for each valid one.

    Args:
        repo: the state (donate it).
        expert: N experts.
        edit_id: the user's ids.
        valid: rows that are padding are False and are not written.

    Returns:
        The state and each edit's row; -1 where it was not written (invalid, or no room left: call
        `check_room` first).
    """
    capacity = repo.born.shape[0]
    nth = jnp.cumsum(valid) - 1
    row = jnp.where(valid, repo.used_n + nth, capacity)
    row = jnp.where(row < capacity, row, capacity)  # out of bounds: dropped by the scatters
    written_n = (row < capacity).sum()

    def put(leaf, value):
        return leaf.at[row].set(value.astype(leaf.dtype), mode="drop")

    born = repo.clock + 1 + nth
    repo = repo.replace(
        text_key=put(repo.text_key, expert.text_key),
        vision_key=put(repo.vision_key, expert.vision_key),
        down=put(repo.down, expert.down),
        up=put(repo.up, expert.up),
        edit_id=put(repo.edit_id, edit_id),
        born=put(repo.born, born),
        died=put(repo.died, jnp.full_like(born, NEVER)),
        clock=repo.clock + written_n,
        used_n=repo.used_n + written_n,
    )
    return repo, jnp.where(row < capacity, row, -1)


def delete_edits(repo: Repository, edit_id: Int[Array, " N"]) -> Repository:
    """End the life of every live edit with one of these ids; one tick of the clock."""
    clock = repo.clock + 1
    chosen = jnp.isin(repo.edit_id, edit_id) & alive(repo)
    return repo.replace(died=jnp.where(chosen, clock, repo.died), clock=clock)


def undelete_edits(repo: Repository, edit_id: Int[Array, " N"]) -> Repository:
    """Bring deleted edits with these ids back; one tick of the clock."""
    chosen = jnp.isin(repo.edit_id, edit_id) & (repo.born <= repo.clock)
    return repo.replace(died=jnp.where(chosen, NEVER, repo.died), clock=repo.clock + 1)


def rollback(repo: Repository, clock: Int[Array, ""]) -> Repository:
    """Discard the history after `clock`: rows born later are freed, deaths later undone."""
    clock = jnp.minimum(jnp.asarray(clock, jnp.int32), repo.clock)
    kept = repo.born <= clock
    return repo.replace(
        edit_id=jnp.where(kept, repo.edit_id, -1),
        born=jnp.where(kept, repo.born, NEVER),
        died=jnp.where(kept & (repo.died <= clock), repo.died, NEVER),
        clock=clock,
        used_n=kept.sum().astype(jnp.int32),
    )


def reclaim(repo: Repository) -> Repository:
    """Move live rows to the front, in order, and free the dead; their history is given up."""
    keep = alive(repo)
    order = jnp.argsort(~keep, stable=True)
    repo = jax.tree.map(lambda leaf: leaf[order] if leaf.ndim else leaf, repo)
    keep = keep[order]
    return repo.replace(
        edit_id=jnp.where(keep, repo.edit_id, -1),
        born=jnp.where(keep, repo.born, NEVER),
        died=jnp.full_like(repo.died, NEVER),
        used_n=keep.sum().astype(jnp.int32),
    )


def grow(repo: Repository, capacity: int) -> Repository:
    """The same edits in a larger repository.

    Raises:
        ValueError: `capacity` is smaller than today's.
    """
    more = capacity - repo.born.shape[0]
    if more < 0:
        raise ValueError(f"capacity={capacity} is below the present {repo.born.shape[0]}")

    def pad(leaf, value):
        return jnp.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1), constant_values=value)

    return repo.replace(
        text_key=pad(repo.text_key, 0),
        vision_key=pad(repo.vision_key, 0),
        down=pad(repo.down, 0),
        up=pad(repo.up, 0),
        edit_id=pad(repo.edit_id, -1),
        born=pad(repo.born, NEVER),
        died=pad(repo.died, NEVER),
    )
