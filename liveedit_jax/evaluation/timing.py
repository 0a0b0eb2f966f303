"""Filling the literal repository by single donated adds, and what one edit, add and query cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import liveedit, repository
from liveedit_jax.evaluation.predict import Subject
from liveedit_jax.types import Batch, Expert, Repository

ADDS_N, EDITS_N, QUERIES_N = 100, 20, 20


@partial(jax.jit, donate_argnums=0)
def add_one(repo: Repository, expert: Expert, edit_id: Array, valid: Array):
    """One donated add of a ready expert."""
    return repository.add_edits(repo, expert, edit_id, valid)


@partial(jax.jit, donate_argnums=0)
def back_to(repo: Repository, clock: Array) -> Repository:
    """Undo the adds after `clock`, in place."""
    return repository.rollback(repo, clock)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def edit_one(
    backbone: Backbone,
    cfg: EditorConfig,
    weights: Any,
    editor: liveedit.Prepared,
    repo: Repository,
    batch: Batch,
    edit_id: Array,
    valid: Array,
):
    """One whole edit: tokens and pixels in, a stored expert out."""
    expert = liveedit.make_experts(cfg, backbone, weights, editor, batch)
    return repository.add_edits(repo, expert, edit_id, valid)


@partial(jax.jit, static_argnums=(0, 1))
def query_one(
    backbone: Backbone,
    cfg: EditorConfig,
    weights: Any,
    editor: liveedit.Prepared,
    repo: Repository,
    batch: Batch,
) -> Int[Array, "B T"]:
    """One whole query: tokens and pixels in, the edited model's next tokens out."""
    hidden, route = liveedit.lower_and_route(cfg, backbone, weights, editor, repo, batch)
    hidden = hidden + liveedit.residual(cfg, editor, repo, hidden, batch.role, route)
    return backbone.upper(weights, hidden, batch).argmax(-1)


def bytes_of(make: Callable) -> int:
    """What the arrays of a pytree take that `make` would return; it is not made."""
    shapes = jax.tree.leaves(jax.eval_shape(make))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in shapes)


def _median_ms(seconds: Sequence[float]) -> float:
    return 1e3 * float(np.median(seconds))


def _timed(run: Callable, *args) -> tuple[Any, float]:
    begin = time.perf_counter()
    out = run(*args)
    jax.block_until_ready(out)
    return out, time.perf_counter() - begin


def _one(expert: Expert, i: int) -> Expert:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[i : i + 1]), expert)


def fill(
    subject: Subject,
    expert: Expert,
    capacity: int,
    marks: Sequence[int],
    batch_of: Callable[[int], Batch],
    timed: bool,
) -> tuple[Repository, dict[int, dict[str, float]]]:
    """A repository filled by single donated adds, measured whenever its fill reaches a mark.

    At a mark of n edits the n-th edit is stored, undone on the edit clock and stored again, a
    hundred times, so every timed add meets n - 1 stored edits and the largest mark's capacity.

    Args:
        subject: the model.
        expert: the stream's experts (numpy), at least `capacity` of them.
        capacity: edits to store.
        marks: fills at which to measure.
        batch_of: the tokenised request of edit i, one row.
        timed: measure (a resumed run has its times already).

    Returns:
        The full repository and, by mark, `edit_ms`, `add_ms`, `query_ms` and `state_bytes` (of a
        repository of just that capacity).
    """
    repo = repository.init_repository(subject.cfg, subject.backbone.cfg.width, capacity)
    valid, times = jnp.ones(1, bool), {}
    repo, _ = add_one(repo, _one(expert, 0), jnp.zeros(1, jnp.int32), valid)  # compiles
    repo = back_to(repo, jnp.asarray(0, jnp.int32))
    for i in range(capacity):
        one, edit_id = _one(expert, i), jnp.full(1, i, jnp.int32)
        if timed and i + 1 in marks:
            repo, times[i + 1] = _measure(subject, repo, one, edit_id, valid, batch_of(i), i)
        repo, _ = add_one(repo, one, edit_id, valid)
    return repo, times


def _measure(
    subject: Subject,
    repo: Repository,
    one: Expert,
    edit_id: Array,
    valid: Array,
    batch: Batch,
    stored_n: int,
) -> tuple[Repository, dict[str, float]]:
    model = (subject.backbone, subject.cfg, subject.weights, subject.editor)
    clock = jnp.asarray(stored_n, jnp.int32)

    def repeat(run: Callable, repo: Repository, n: int) -> tuple[Repository, list[float]]:
        spent = []
        for _ in range(n + 2):
            (repo, _slot), seconds = _timed(run, repo)
            spent.append(seconds)
            repo = jax.block_until_ready(back_to(repo, clock))
        return repo, spent[2:]  # the first two warm up

    repo, adds = repeat(lambda repo: add_one(repo, one, edit_id, valid), repo, ADDS_N)
    repo, edits = repeat(lambda repo: edit_one(*model, repo, batch, edit_id, valid), repo, EDITS_N)
    repo, _ = add_one(repo, one, edit_id, valid)
    asked = [_timed(query_one, *model, repo, batch)[1] for _ in range(QUERIES_N + 2)]
    repo = back_to(repo, clock)
    return repo, {
        "edit_ms": _median_ms(edits),
        "add_ms": _median_ms(adds),
        "query_ms": _median_ms(asked[2:]),
        "state_bytes": bytes_of(
            partial(
                repository.init_repository, subject.cfg, subject.backbone.cfg.width, stored_n + 1
            )
        ),
    }
