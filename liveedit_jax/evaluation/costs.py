"""Measure what an edit and a question cost, and how much room a state takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liveedit_jax import editors
from liveedit_jax.editors import Known, State
from liveedit_jax.evaluation.layout import make_rows, pixels, take
from liveedit_jax.evaluation.probes import Probe
from liveedit_jax.evaluation.subject import Subject, edit
from liveedit_jax.types import Batch

TIMED_N = 10


def bytes_of(make: Callable, *args: Any) -> int:
    """Count the bytes of a pytree that `make` would return, without making it."""
    shapes = jax.tree.leaves(jax.eval_shape(make, *args))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in shapes)


def peak_rss_gb() -> float:
    """Tell the most memory (GiB) that this process has had."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _median_ms(run: Callable, state: State, copied: bool) -> float:
    spent = []
    for _ in range(TIMED_N + 2):
        own = after = None  # what is freed is not timed
        own = jax.block_until_ready(jax.tree.map(jnp.array, state)) if copied else state
        begin = time.perf_counter()
        after = jax.block_until_ready(run(own))
        spent.append(time.perf_counter() - begin)
    del after
    return 1e3 * float(np.median(spent[2:]))  # the first two warm up


def _one(subject: Subject, probe: Probe) -> tuple[Batch, np.ndarray]:
    """Make one row with its pixels, and the positions of its answer."""
    cfg, shapes = subject.backbone.cfg, subject.shapes
    rows = make_rows(subject.tokenizer, cfg, [probe], shapes)
    batch = take(rows, np.asarray([0]), shapes.long_n)
    return batch.replace(image=pixels(cfg, probe.image)[None]), rows.position


def edit_costs(
    subject: Subject, before: State, probe: Probe, known: Known, batch: Batch
) -> dict[str, float]:
    """Time an edit that has not been made yet; editors that descend would not repeat it.

    Args:
        subject: the editor.
        before: the state that it is made in; copies are edited.
        probe: the request; `edit_ms` is that of the whole edit, from tokens and pixels.
        known: the same, ready; where editors route, `add_ms` is that of storing it alone.
        batch: the same.
    """
    model, (whole, _) = subject.model, _one(subject, probe)
    runs = {"edit_ms": lambda own: editors.edit_from_pixels(*model, own, whole)}
    if subject.editor.routes:
        ready = jax.tree.map(jnp.asarray, (known, batch))
        runs["add_ms"] = lambda own: edit(subject, own, *ready)
    return {name: _median_ms(run, before, copied=True) for name, run in runs.items()}


def query_costs(subject: Subject, state: State, probe: Probe, edits_n: int) -> dict[str, float]:
    """Time a question, from tokens and pixels, and count the bytes of a state for `edits_n`."""
    model, (whole, at) = subject.model, _one(subject, probe)
    init = partial(subject.editor.init, *model[1:])
    return {
        "query_ms": _median_ms(
            lambda own: editors.answers_from_pixels(*model, own, whole, at), state, copied=False
        ),
        "state_bytes": bytes_of(lambda: init(edits_n)),
    }
