"""The editor and model under evaluation, run on rows in batches of a few static shapes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from liveedit_jax import editors
from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.data.layout import Layout
from liveedit_jax.data.reading import read_pictures
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.editors import Editor, Encoding, State, is_routed, split_at_layer
from liveedit_jax.evaluation.batching import (
    Layouts,
    ProbeRows,
    RowNumbers,
    Shapes,
    group_by_length,
    group_by_width,
    make_rows,
    measure_shapes,
    pad_group,
    take,
)
from liveedit_jax.evaluation.probes import Case, Probe, image_key
from liveedit_jax.types import Batch, Route

CACHE_BYTES = 4 * 2**30  # the size of the cache of picture features
READERS_N = min(8, os.cpu_count() or 1)  # threads that decode pictures

PictureCache = dict[bytes, np.ndarray]  # features by `image_key`


@dataclass(frozen=True, eq=False)
class Subject:
    """The system under evaluation: an editor, its model, and the shapes of a run.

    The model is split at the layer that the editor acts on.
    """

    editor: Editor
    backbone: Backbone
    params: dict  # {"backbone": ..., "editor": ...}
    tokenizer: Tokenizer
    shapes: Shapes
    inputs: PictureCache  # cache of the editor's inputs from pictures
    features: PictureCache  # cache of vision features; the same object if `inputs` are just these
    layouts: Layouts | None = None  # of all pictures, where the model takes them in tiles

    @property
    def model(self) -> tuple[Editor, Backbone, dict]:
        """Return the first three arguments of the functions of `editors`."""
        return self.editor, self.backbone, self.params

    def with_one_length(self, long_n: int) -> Subject:
        """Return the same with one length for all rows."""
        return replace(self, shapes=replace(self.shapes, short_n=0, long_n=long_n))


@dataclass(frozen=True, eq=False)
class ModelParts:
    """A model and an editor, not yet bound to the shapes of some cases."""

    backbone: Backbone
    weights: Any  # the backbone's
    tokenizer: Tokenizer
    editor: Editor
    trained: Any = None  # the editor's own weights, where it has some

    def subject(
        self, cases: Sequence[Case], batch_n: int, features: PictureCache | None = None
    ) -> Subject:
        """Split the model at the editor's layer and choose the shapes that fit some cases.

        Args:
            cases: everything that will be asked.
            batch_n: rows per batch.
            features: vision features of pictures, to be shared among subjects of one model.
        """
        layouts = measure_layouts(self.backbone.cfg, cases)
        shapes = measure_shapes(self.tokenizer, self.backbone.cfg, cases, batch_n, layouts)
        backbone, weights = split_at_layer(self.backbone, self.weights, self.editor.layer)
        params = {"backbone": weights, "editor": editors.prepare(self.editor, self.trained)}
        features = {} if features is None else features
        seen = features if type(self.editor).encode_image is Editor.encode_image else {}
        known = (shapes, seen, features, layouts)
        return Subject(self.editor, backbone, params, self.tokenizer, *known)


def measure_layouts(cfg: BackboneConfig, cases: Sequence[Case]) -> Layouts | None:
    """Read the layout of each picture of some cases.

    Only for models that cut pictures into tiles, as many as their proportions need.
    """
    if cfg.tiles is None:
        return None
    shown = (probe.image for case in cases for probe in case.probes)
    images = {image_key(image): image for image in shown if image is not None}
    layouts: dict[bytes, Layout] = {}
    for key, picture in zip(images, read_pictures(cfg, images.values(), READERS_N), strict=True):
        assert picture.layout is not None  # of a picture
        layouts[key] = picture.layout
    return layouts


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """Rows with everything about them that no edit changes, on the host."""

    rows: ProbeRows
    known: list[Encoding]  # the editor's encoding of each row, without a batch axis
    before: np.ndarray  # int32[X, A + 1], the unedited model's most likely tokens; or int32[X, 0]
    query: Any = None  # [X, ...], the routing queries of a RoutedEditor


@partial(jax.jit, static_argnums=0)
def _features(backbone: Backbone, weights: Any, image: Float[Array, "B S S 3"]) -> Array:
    return backbone.vision_features(weights, image)


def vision_features(subject: Subject, probes: Sequence[Probe]) -> list[np.ndarray]:
    """Compute the vision features f32[P, D] of each probe's picture; zeros where it has none."""
    look = partial(_features, subject.backbone, subject.params["backbone"])
    return _cached_features(subject, look, probes, subject.features)


def picture_inputs(subject: Subject, probes: Sequence[Probe]) -> list[np.ndarray]:
    """Compute the editor's input from each probe's picture; zeros where it has none."""
    return _cached_features(
        subject, partial(editors.encode_image, *subject.model), probes, subject.inputs
    )


def _cached_features(
    subject: Subject,
    look: Callable[[np.ndarray], Array],
    probes: Sequence[Probe],
    known: PictureCache,
) -> list[np.ndarray]:
    """Apply `look` to pictures, by way of the cache `known`, whose oldest entries make room."""
    cfg, batch_n = subject.backbone.cfg, subject.shapes.batch_n
    if b"" not in known:
        blank = jax.ShapeDtypeStruct((1, *cfg.image_shape), np.float32)
        known[b""] = np.zeros(jax.eval_shape(look, blank).shape[1:], np.float32)
    keys = [image_key(probe.image) for probe in probes]
    new = {
        key: probe.image
        for key, probe in zip(keys, probes, strict=True)
        if key not in known and probe.image is not None
    }
    todo, read = list(new), read_pictures(cfg, new.values(), READERS_N)
    for start in range(0, len(todo), batch_n):
        part = todo[start : start + batch_n]
        shown = np.zeros((batch_n, *cfg.image_shape), np.float32)
        for b, (_, picture) in enumerate(zip(part, read, strict=False)):
            shown[b] = picture.pixels
        made = np.asarray(look(shown))
        known |= {key: made[b].copy() for b, key in enumerate(part)}
    found = [known[key] for key in keys]
    most = max(CACHE_BYTES // known[b""].nbytes, 1)
    for key in [key for key in known if key][: max(len(known) - most, 0)]:
        del known[key]
    return found


def stack_rows(rows: Sequence[Any]) -> Any:
    """Stack pytrees of equal shapes along a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def _batched(
    subject: Subject, rows: ProbeRows, probes: Sequence[Probe]
) -> Iterator[tuple[np.ndarray, np.ndarray, Batch, np.ndarray]]:
    """Yield groups of rows: the group, the group padded, its batch, and its picture inputs."""
    seen = picture_inputs(subject, probes)
    for group, t in group_by_length(rows, range(len(rows)), subject.shapes):
        at = pad_group(group, subject.shapes.batch_n)
        yield group, at, take(rows, at, t), np.stack([seen[i] for i in at])


def encode(subject: Subject, probes: Sequence[Probe]) -> EncodedRows:
    """Encode probes: everything that no edit changes, and the unedited model's answers."""
    rows = make_rows(
        subject.tokenizer, subject.backbone.cfg, probes, subject.shapes, subject.layouts
    )
    known: list = [None] * len(rows)
    before = np.zeros(rows.position.shape, np.int32)
    for group, at, batch, seen in _batched(subject, rows, probes):
        made = editors.encode_and_answer(*subject.model, batch, seen, rows.position[at])
        part, ids = jax.tree.map(np.asarray, made)
        before[group] = ids[: len(group)]
        _store_rows(known, group, part)
    editor = subject.editor
    query = stack_rows([editor.query(k) for k in known]) if is_routed(editor) else None
    return EncodedRows(rows, known, before, query)


def encode_rows(subject: Subject, rows: ProbeRows, probes: Sequence[Probe]) -> EncodedRows:
    """Encode rows, without the unedited model's answers."""
    known: list = [None] * len(rows)
    for group, _, batch, seen in _batched(subject, rows, probes):
        _store_rows(
            known, group, jax.tree.map(np.asarray, editors.encode(*subject.model, batch, seen))
        )
    return EncodedRows(rows, known, np.zeros((len(rows), 0), np.int32))


def _store_rows(known: list, group: np.ndarray, part: Encoding) -> None:
    for b, i in enumerate(group):
        known[i] = jax.tree.map(lambda leaf, b=b: leaf[b], part)


def prepare_requests(
    subject: Subject, probes: Sequence[Probe]
) -> Iterator[tuple[Encoding, Batch, int]]:
    """Prepare requests for `edit`, in order; yields encodings, batch, and the number of requests.

    An editor that takes several requests at once (`together`) gets them in rows of one length. Rows
    of its last batch that have no request are all PAD, but take up room in the state.
    """
    together = subject.editor.together
    if together > 1:
        subject = subject.with_one_length(subject.shapes.long_n)
    rows = make_rows(
        subject.tokenizer, subject.backbone.cfg, probes, subject.shapes, subject.layouts
    )
    ready: dict[int, tuple] = {}
    for group, _, batch, seen in _batched(subject, rows, probes):
        made = jax.tree.map(np.asarray, (editors.request(*subject.model, batch, seen), batch))
        for b, i in enumerate(group):
            ready[int(i)] = jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], made)
    for start in range(0, len(probes), together):
        own = [ready.pop(i) for i in range(start, min(start + together, len(probes)))]
        blank = [jax.tree.map(np.zeros_like, own[0])] * (together - len(own))
        yield *jax.tree.map(lambda *leaves: np.concatenate(leaves), *own, *blank), len(own)


def empty_state(subject: Subject, capacity: int) -> State:
    """Return a state without edits, with room for `capacity`, rounded up to whole batches."""
    together = subject.editor.together
    state = editors.init(*subject.model, -(-capacity // together) * together)
    return jax.tree.map(jnp.array, state)  # a copy: `edit` donates the state, never the weights


def edit(subject: Subject, state: State, known: Encoding, batch: Batch) -> State:
    """Make the next `together` edits; the state before is donated and must not be used again."""
    if is_routed(subject.editor):
        return editors.store(subject.editor, state, known, batch)
    return editors.edit(*subject.model, state, known, batch)


def predict_answers(
    subject: Subject,
    state: State,
    encoded: EncodedRows,
    chosen: Sequence[int],
    found: Route | None = None,
) -> np.ndarray:
    """Predict the teacher-forced answers of chosen rows in a state, under their routes if any.

    Returns:
        The most likely tokens, int32[len(chosen), A + 1].
    """
    rows, out = encoded.rows, np.zeros((len(chosen), encoded.rows.position.shape[1]), np.int32)
    place = {int(i): n for n, i in enumerate(chosen)}
    parts: Iterable[tuple[RowNumbers, int | None]] = [(chosen, None)]
    if found is not None:
        parts = group_by_width(found, chosen)
    for some, k in parts:
        for group, t in group_by_length(rows, some, subject.shapes):
            at = pad_group(group, subject.shapes.batch_n)
            ids = editors.answers(
                *subject.model,
                state,
                stack_rows([encoded.known[i] for i in at]),
                take(rows, at, t),
                rows.position[at],
                None if found is None or k is None else take_routes(found, at, k),
            )
            out[[place[int(i)] for i in group]] = np.asarray(ids)[: len(group)]
    return out


def take_routes(found: Route, at: np.ndarray, k: int) -> Route:
    """Take the routes of some rows, with the first `k` edits of each."""
    few = found.replace(slot=found.slot[:, :k], weight=found.weight[:, :k])
    return jax.tree.map(lambda leaf: leaf[at], few)


def find_routes(
    subject: Subject, state: State, query: Any, at: np.ndarray, shown: np.ndarray
) -> tuple[Route, np.ndarray]:
    """Route the rows in `shown`; all other rows hit nothing and have the margin -inf.

    Args:
        subject: one of a RoutedEditor.
        state: the state that holds the edits.
        query: the routing queries, [X, ...].
        at: the moment each row is asked at, int[X] (its chunk where the state is cut into chunks).
        shown: the rows that have a picture.

    Returns:
        The routes and their margins, f32[X], as numpy arrays.
    """
    b, route = subject.shapes.batch_n, partial(editors.route, *subject.model, state)
    moments = at[:, None].astype(np.int32)
    blank = jax.eval_shape(route, query, moments)
    found, margin = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), blank)
    margin[:] = -np.inf
    for start in range(0, len(shown), b):
        group = shown[start : start + b]
        rows = pad_group(group, b)
        part = route(jax.tree.map(lambda leaf, rows=rows: leaf[rows], query), moments[rows])
        jax.tree.map(
            lambda to, leaf, at=group: to.__setitem__(at, np.asarray(leaf)[: len(at)]),
            (found, margin),
            part,
        )
    used = found.weight > 0
    slot, weight = np.where(used, found.slot, 0), np.where(used, found.weight, 0.0)
    return found.replace(slot=slot, weight=weight.astype(np.float32)), margin
