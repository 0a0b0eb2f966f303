"""The costs of an edit and of a question in time, and of a state in memory."""

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
from liveedit_jax.editors import Encoding, State
from liveedit_jax.evaluation.batching import make_rows, read_pixels, take
from liveedit_jax.evaluation.probes import Probe
from liveedit_jax.evaluation.subject import Subject, edit
from liveedit_jax.types import Batch

TIMED_N = 10


def bytes_of(make: Callable, *args: Any) -> int:
    """Count the bytes of the pytree that `make(*args)` would return, without computing it."""
    shapes = jax.tree.leaves(jax.eval_shape(make, *args))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in shapes)


def peak_rss_gb() -> float:
    """Return the peak resident memory of this process so far, in GiB."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _median_ms(run: Callable, state: State, copied: bool) -> float:
    spent = []
    for _ in range(TIMED_N + 2):
        own = after = None  # frees the arrays of the previous round outside the timed part
        own = jax.block_until_ready(jax.tree.map(jnp.array, state)) if copied else state
        begin = time.perf_counter()
        after = jax.block_until_ready(run(own))
        spent.append(time.perf_counter() - begin)
    del after
    return 1e3 * float(np.median(spent[2:]))  # the first two warm up


def _one(subject: Subject, probe: Probe) -> tuple[Batch, np.ndarray]:
    """Make a batch of one probe with its pixels, and the positions that predict its answer."""
    cfg, shapes = subject.backbone.cfg, subject.shapes
    rows = make_rows(subject.tokenizer, cfg, [probe], shapes, subject.layouts)
    batch = take(rows, np.asarray([0]), shapes.long_n)
    assert probe.image is not None  # a request has a picture
    return batch.replace(image=read_pixels(cfg, probe.image)[None]), rows.position


def edit_costs(
    subject: Subject, before: State, probe: Probe, known: Encoding, batch: Batch
) -> dict[str, float]:
    """Time one edit, in milliseconds (the median of TIMED_N).

    The edit must not be in the state yet: an editor that takes gradient steps would have nothing
    left to do.

    Args:
        subject: the editor and the model.
        before: the state before the edit; copies of it are edited.
        probe: the request.
        known: the same request, prepared for `edit`.
        batch: its tokens.

    Returns:
        `edit_ms`, the whole edit from tokens and pixels; of an editor that routes also `add_ms`,
        storing the prepared request alone.
    """
    model, (whole, _) = subject.model, _one(subject, probe)
    runs = {"edit_ms": lambda own: editors.edit_from_pixels(*model, own, whole)}
    if subject.editor.routes:
        ready = jax.tree.map(jnp.asarray, (known, batch))
        runs["add_ms"] = lambda own: edit(subject, own, *ready)
    return {name: _median_ms(run, before, copied=True) for name, run in runs.items()}


def query_costs(subject: Subject, state: State, probe: Probe, edits_n: int) -> dict[str, float]:
    """Time one question and size the state.

    Returns:
        `query_ms`, one question from tokens and pixels (the median of TIMED_N), and `state_bytes`,
        the size of a state with room for just `edits_n` edits.
    """
    model, (whole, at) = subject.model, _one(subject, probe)
    init = partial(subject.editor.init, *model[1:])
    return {
        "query_ms": _median_ms(
            lambda own: editors.answers_from_pixels(*model, own, whole, at), state, copied=False
        ),
        "state_bytes": bytes_of(lambda: init(edits_n)),
    }
