"""What is evaluated: an editor on a model. Its rows pass through batches of a few static shapes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from liveedit_jax import editors
from liveedit_jax.backbones import Backbone
from liveedit_jax.data.reading import pictures
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.editors import Editor, Known, State, at_layer
from liveedit_jax.evaluation.layout import (
    Rows,
    Shapes,
    batches,
    by_width,
    make_rows,
    measure,
    padded,
    take,
)
from liveedit_jax.evaluation.probes import Case, Probe, image_key
from liveedit_jax.types import Batch, Route

KNOWN_BYTES = 4 * 2**30  # of what is remembered of pictures
READERS_N = min(8, os.cpu_count() or 1)  # threads that decode pictures

Seen = dict[bytes, np.ndarray]  # what is taken of pictures, by picture


@dataclass(frozen=True, eq=False)
class Subject:
    """An editor and a model split where it acts, with the static shapes of a run."""

    editor: Editor
    backbone: Backbone
    params: dict  # {"backbone": ..., "editor": ...}
    tokenizer: Tokenizer
    shapes: Shapes
    seen: Seen  # what the editor takes of pictures, read and added to
    features: Seen  # the model's own features of them: the same where the editor takes just these

    @property
    def model(self) -> tuple[Editor, Backbone, dict]:
        """Give what the functions of `editors` take first."""
        return self.editor, self.backbone, self.params

    def in_one_length(self, long_n: int) -> Subject:
        """Give it one length for all rows."""
        return replace(self, shapes=replace(self.shapes, short_n=0, long_n=long_n))


@dataclass(frozen=True, eq=False)
class Parts:
    """A model and an editor, before anything is known of the cases."""

    backbone: Backbone
    weights: Any  # the backbone's
    tokenizer: Tokenizer
    editor: Editor
    trained: Any = None  # the editor's own weights, where it has some

    def subject(self, cases: Sequence[Case], batch_n: int, features: Seen | None = None) -> Subject:
        """Split the model where the editor acts, with the shapes that fit these cases.

        Args:
            cases: whatever will be asked.
            batch_n: rows of a batch.
            features: what earlier subjects of this model have seen, where editors take just that.
        """
        shapes = measure(self.tokenizer, self.backbone.cfg, cases, batch_n)
        backbone, weights = at_layer(self.backbone, self.weights, self.editor.layer)
        params = {"backbone": weights, "editor": editors.prepare(self.editor, self.trained)}
        features = {} if features is None else features
        seen = features if type(self.editor).see is Editor.see else {}
        return Subject(self.editor, backbone, params, self.tokenizer, shapes, seen, features)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows, and what no edit changes about them, on the host."""

    rows: Rows
    known: list[Known]  # of each row, without its axis
    before: np.ndarray | None = None  # int32[X, A + 1], the unedited model's most likely tokens
    query: Any = None  # [X, ...], of a RoutedEditor


@partial(jax.jit, static_argnums=0)
def _features(backbone: Backbone, weights: Any, image: Float[Array, "B S S 3"]) -> Array:
    return backbone.vision_features(weights, image)


def vision_features(subject: Subject, probes: Sequence[Probe]) -> list[np.ndarray]:
    """Compute the model's features f32[P, D] of each picture; zeros where there is none."""
    look = partial(_features, subject.backbone, subject.params["backbone"])
    return _look(subject, look, probes, subject.features)


def picture_inputs(subject: Subject, probes: Sequence[Probe]) -> list[np.ndarray]:
    """Compute what the editor takes of each picture; zeros where there is none."""
    return _look(subject, partial(editors.see, *subject.model), probes, subject.seen)


def _look(
    subject: Subject, look: Callable[[np.ndarray], Array], probes: Sequence[Probe], known: Seen
) -> list[np.ndarray]:
    """Look at pictures that are not known; `known` loses its oldest ones beyond KNOWN_BYTES."""
    cfg, batch_n = subject.backbone.cfg, subject.shapes.batch_n
    if b"" not in known:
        blank = jax.ShapeDtypeStruct((1, *cfg.image_shape), np.float32)
        known[b""] = np.zeros(jax.eval_shape(look, blank).shape[1:], np.float32)
    keys = [image_key(probe.image) for probe in probes]
    new = {key: p.image for key, p in zip(keys, probes, strict=True) if key not in known}
    todo, read = list(new), pictures(cfg, new.values(), READERS_N)
    for start in range(0, len(todo), batch_n):
        part = todo[start : start + batch_n]
        shown = np.zeros((batch_n, *cfg.image_shape), np.float32)
        for b, (_, picture) in enumerate(zip(part, read, strict=False)):
            shown[b] = picture.pixels
        found = np.asarray(look(shown))
        known |= {key: found[b].copy() for b, key in enumerate(part)}
    found = [known[key] for key in keys]
    most = max(KNOWN_BYTES // known[b""].nbytes, 1)
    for key in [key for key in known if key][: max(len(known) - most, 0)]:
        del known[key]
    return found


def stack_rows(rows: Sequence[Any]) -> Any:
    """Stack pytrees of equal shapes along a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def _batched(
    subject: Subject, rows: Rows, probes: Sequence[Probe]
) -> Iterator[tuple[np.ndarray, np.ndarray, Batch, np.ndarray]]:
    """Cut rows into groups: each, itself padded, as a batch, and with what is seen."""
    seen = picture_inputs(subject, probes)
    for group, t in batches(rows, range(len(rows)), subject.shapes):
        at = padded(group, subject.shapes.batch_n)
        yield group, at, take(rows, at, t), np.stack([seen[i] for i in at])


def encode(subject: Subject, probes: Sequence[Probe]) -> Encoded:
    """Compute all that no edit changes about probes, the unedited model's answers included."""
    rows = make_rows(subject.tokenizer, subject.backbone.cfg, probes, subject.shapes)
    known: list = [None] * len(rows)
    before = np.zeros(rows.position.shape, np.int32)
    for group, at, batch, seen in _batched(subject, rows, probes):
        made = editors.ask_unedited(*subject.model, batch, seen, rows.position[at])
        part, ids = jax.tree.map(np.asarray, made)
        before[group] = ids[: len(group)]
        _keep(known, group, part)
    query = stack_rows([subject.editor.query(k) for k in known]) if subject.editor.routes else None
    return Encoded(rows, known, before, query)


def encode_rows(subject: Subject, rows: Rows, probes: Sequence[Probe]) -> Encoded:
    """Compute what no edit changes about rows, without asking the unedited model."""
    known: list = [None] * len(rows)
    for group, _, batch, seen in _batched(subject, rows, probes):
        _keep(known, group, jax.tree.map(np.asarray, editors.encode(*subject.model, batch, seen)))
    return Encoded(rows, known)


def _keep(known: list, group: np.ndarray, part: Known) -> None:
    for b, i in enumerate(group):
        known[i] = jax.tree.map(lambda leaf, b=b: leaf[b], part)


def requests(subject: Subject, probes: Sequence[Probe]) -> Iterator[tuple[Known, Batch, int]]:
    """Make requests ready for `edit`, in their order; also tell how many of them each batch has.

    An editor that takes several at once (`together`) has them in rows of one length; in its last
    batch, rows without a request are all PAD. They take up room all the same.
    """
    together = subject.editor.together
    if together > 1:
        subject = subject.in_one_length(subject.shapes.long_n)
    rows = make_rows(subject.tokenizer, subject.backbone.cfg, probes, subject.shapes)
    ready: dict[int, tuple] = {}
    for group, _, batch, seen in _batched(subject, rows, probes):
        made = jax.tree.map(np.asarray, (editors.request(*subject.model, batch, seen), batch))
        for b, i in enumerate(group):
            ready[int(i)] = jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], made)
    for start in range(0, len(probes), together):
        own = [ready.pop(i) for i in range(start, min(start + together, len(probes)))]
        blank = [jax.tree.map(np.zeros_like, own[0])] * (together - len(own))
        yield *jax.tree.map(lambda *leaves: np.concatenate(leaves), *own, *blank), len(own)


def begin_state(subject: Subject, capacity: int) -> State:
    """Begin without edits, with room for `capacity` or for as many as fill the last batch."""
    together = subject.editor.together
    state = editors.init(*subject.model, -(-capacity // together) * together)
    return jax.tree.map(jnp.array, state)  # edits happen in place, and not in the weights


def edit(subject: Subject, state: State, known: Known, batch: Batch) -> State:
    """Make `together` more edits, in place of the state before."""
    if subject.editor.routes:
        return editors.store(subject.editor, state, known, batch)
    return editors.edit(*subject.model, state, known, batch)


def answers(
    subject: Subject,
    state: State,
    encoded: Encoded,
    chosen: Sequence[int],
    found: Route | None = None,
) -> np.ndarray:
    """Ask chosen rows in a state, under their routes if any: int32[len(chosen), A + 1]."""
    rows, out = encoded.rows, np.zeros((len(chosen), encoded.rows.position.shape[1]), np.int32)
    place = {int(i): n for n, i in enumerate(chosen)}
    for some, k in [(chosen, None)] if found is None else by_width(found, chosen):
        for group, t in batches(rows, some, subject.shapes):
            at = padded(group, subject.shapes.batch_n)
            ids = editors.answers(
                *subject.model,
                state,
                stack_rows([encoded.known[i] for i in at]),
                take(rows, at, t),
                rows.position[at],
                None if k is None else narrow(found, at, k),
            )
            out[[place[int(i)] for i in group]] = np.asarray(ids)[: len(group)]
    return out


def narrow(found: Route, at: np.ndarray, k: int) -> Route:
    """Take the routes of some rows, `k` edits of each."""
    few = found.replace(slot=found.slot[:, :k], weight=found.weight[:, :k])
    return jax.tree.map(lambda leaf: leaf[at], few)


def find_routes(
    subject: Subject, state: State, query: Any, at: np.ndarray, shown: np.ndarray
) -> tuple[Route, np.ndarray]:
    """Route the rows in `shown`, with margins (numpy); all other rows hit nothing (-inf).

    Args:
        subject: a RoutedEditor's.
        state: every case's edit.
        query: [X, ...].
        at: each row's moment, int[X].
        shown: the rows whose queries have a picture.
    """
    b, route = subject.shapes.batch_n, partial(editors.route, *subject.model, state)
    moments = at[:, None].astype(np.int32)
    blank = jax.eval_shape(route, query, moments)
    found, margin = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), blank)
    margin[:] = -np.inf
    for start in range(0, len(shown), b):
        group = shown[start : start + b]
        rows = padded(group, b)
        part = route(jax.tree.map(lambda leaf, rows=rows: leaf[rows], query), moments[rows])
        jax.tree.map(
            lambda to, leaf, at=group: to.__setitem__(at, np.asarray(leaf)[: len(at)]),
            (found, margin),
            part,
        )
    used = found.weight > 0
    slot, weight = np.where(used, found.slot, 0), np.where(used, found.weight, 0.0)
    return found.replace(slot=slot, weight=weight.astype(np.float32)), margin
