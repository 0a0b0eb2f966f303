"""What every editor is: a few pure functions of arrays. Whoever evaluates one knows only these.

    request ─ encode ─ request ─ edit ──► state
    question ─ encode ─ logits(state)

An editor is a frozen dataclass of its settings, so it can be a static argument of jit. `params` are
`{"backbone": ..., "editor": ...}` (the second only of trained editors); they never change. `encode`
is all of a row that no edit changes, computed once and shared by every state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import jax
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.types import Batch, Route

Known = Any  # a pytree of arrays [B, ...]
State = Any  # a pytree of arrays; its shapes do not depend on the number of edits


class Editor(Protocol):
    """One method of editing, with its settings."""

    layer: int | None = None  # that it acts on, from the end if negative; None: the preset's
    together: int = 1  # requests that one edit takes; where there are fewer, rows are all PAD
    routes: bool = False  # it is a RoutedEditor

    def prepare(self, trained: Any) -> Any:
        """Fold trained weights into what `params["editor"]` holds, every constant computed once."""
        return trained

    def see(self, backbone: Backbone, params: dict, image: Float[Array, "B S S 3"]) -> Array:
        """Compute what `encode` takes of pictures; once a picture."""
        return backbone.vision_features(params["backbone"], image)

    def encode(
        self, backbone: Backbone, params: dict, batch: Batch, seen: Float[Array, "B P D"]
    ) -> Known:
        """Compute what no edit changes about B rows; their pictures come as `see` makes them."""

    def unedited(
        self,
        backbone: Backbone,
        params: dict,
        known: Known,
        batch: Batch,
        seen: Float[Array, "B P D"],
        at: Int[Array, "B A"],
    ) -> Float[Array, "B A V"]:
        """Compute the unedited model's logits at some positions of B rows."""
        hidden = backbone.lower_from_features(params["backbone"], batch, seen)
        return backbone.upper(params["backbone"], hidden, batch, at)

    def request(self, backbone: Backbone, params: dict, known: Known, batch: Batch) -> Known:
        """Make B requests ready for `edit`; in batches, whatever was edited before."""
        return known

    def init(self, backbone: Backbone, params: dict, capacity: int) -> State:
        """Begin the state before the first of at most `capacity` edits."""

    def edit(
        self, backbone: Backbone, params: dict, state: State, known: Known, batch: Batch
    ) -> State:
        """Take in `together` more requests (image, prompt, target), as `request` makes them."""

    def logits(
        self,
        backbone: Backbone,
        params: dict,
        state: State,
        known: Known,
        batch: Batch,
        at: Int[Array, "B A"],
    ) -> Float[Array, "B A V"]:
        """Compute the edited model's logits at some positions of B rows."""


class RoutedEditor(Editor, Protocol):
    """An editor that picks stored edits for every question; where it picks none, nothing changes.

    What a question is routed to depends on its picture and prompt alone. Its state can be asked as
    of a moment, so that one state holds the edits of many chunks. Its requests, once ready, are
    stored without the model (`edit` reads neither `backbone` nor `params`).
    """

    routes: bool = True
    add: Callable[[Any, Array, Array], Array]  # `intervene` of generation, which takes `plan`

    def query(self, known: Known) -> Any:
        """Pick the part of `encode` that `route` reads."""

    def chunked(self, state: State, mark: int) -> State:
        """Cut all edits into chunks of `mark`: a question as of moment c meets chunk c alone."""

    def route(
        self, params: dict, state: State, query: Any, at: Int[Array, "B 1"]
    ) -> tuple[Route, Float[Array, " B"]]:
        """Choose what B questions use as of their moments; also, by how much they hit or miss."""

    def plan(self, params: dict, state: State, route: Route) -> Any:
        """Gather what generation carries along of routed edits."""

    def logits(
        self,
        backbone: Backbone,
        params: dict,
        state: State,
        known: Known,
        batch: Batch,
        at: Int[Array, "B A"],
        route: Route | None = None,
    ) -> Float[Array, "B A V"]:
        """Compute the edited model's logits, by a route (None: what is found now)."""


def at_layer(backbone: Backbone, weights: dict, layer: int | None) -> tuple[Backbone, dict]:
    """Split a model after the layer that an editor acts on.

    Raises:
        ValueError: no such layer.
    """
    if layer is None:
        return backbone, weights
    layers_n = backbone.cfg.decoder.layers_n
    layer = layer + layers_n if layer < 0 else layer
    weights = split_at(weights, layer)
    return replace(backbone, cfg=replace(backbone.cfg, edit_layer=layer)), weights


def _ids(logits: Float[Array, "B A V"]) -> Int[Array, "B A"]:
    return logits.argmax(-1).astype("int32")


@partial(jax.jit, static_argnums=0)
def prepare(editor: Editor, trained: Any) -> Any:
    """Run `editor.prepare`, compiled."""
    return editor.prepare(trained)


@partial(jax.jit, static_argnums=(0, 1))
def see(editor: Editor, backbone: Backbone, params: dict, image) -> Array:
    """Run `editor.see`, compiled."""
    return editor.see(backbone, params, image)


@partial(jax.jit, static_argnums=(0, 1))
def encode(editor: Editor, backbone: Backbone, params: dict, batch: Batch, seen) -> Known:
    """Run `editor.encode`, compiled."""
    return editor.encode(backbone, params, batch, seen)


@partial(jax.jit, static_argnums=(0, 1))
def ask_unedited(
    editor: Editor, backbone: Backbone, params: dict, batch: Batch, seen, at
) -> tuple[Known, Int[Array, "B A"]]:
    """Run `editor.encode`, and give the unedited model's most likely tokens at some positions."""
    known = editor.encode(backbone, params, batch, seen)
    return known, _ids(editor.unedited(backbone, params, known, batch, seen, at))


@partial(jax.jit, static_argnums=(0, 1))
def request(editor: Editor, backbone: Backbone, params: dict, batch: Batch, seen) -> Known:
    """Run `editor.encode` and `editor.request`, compiled."""
    known = editor.encode(backbone, params, batch, seen)
    return editor.request(backbone, params, known, batch)


@partial(jax.jit, static_argnums=(0, 1, 3))
def init(editor: Editor, backbone: Backbone, params: dict, capacity: int) -> State:
    """Run `editor.init`, compiled."""
    return editor.init(backbone, params, capacity)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def edit(editor: Editor, backbone: Backbone, params: dict, state: State, known, batch) -> State:
    """Run `editor.edit`, compiled, in place of the state before."""
    return editor.edit(backbone, params, state, known, batch)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def store(editor: RoutedEditor, state: State, known: Known, batch: Batch) -> State:
    """Run `editor.edit` where it needs no model, compiled, in place of the state before."""
    return editor.edit(None, None, state, known, batch)


@partial(jax.jit, static_argnums=(0, 1))
def answers(
    editor: Editor, backbone: Backbone, params: dict, state: State, known, batch, at, route=None
) -> Int[Array, "B A"]:
    """Give the most likely tokens at some positions; `route` is of a RoutedEditor."""
    routed = {} if route is None else {"route": route}
    return _ids(editor.logits(backbone, params, state, known, batch, at, **routed))


@partial(jax.jit, static_argnums=(0, 1))
def route(
    editor: RoutedEditor, backbone: Backbone, params: dict, state: State, query, at
) -> tuple[Route, Float[Array, " B"]]:
    """Run `editor.route`, compiled."""
    return editor.route(params, state, query, at)


@partial(jax.jit, static_argnums=(0, 1))
def plan(editor: RoutedEditor, backbone: Backbone, params: dict, state: State, route: Route) -> Any:
    """Run `editor.plan`, compiled."""
    return editor.plan(params, state, route)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def edit_from_pixels(
    editor: Editor, backbone: Backbone, params: dict, state: State, batch: Batch
) -> State:
    """Make a whole edit: tokens and pixels in, the state after it out."""
    known = editor.encode(backbone, params, batch, editor.see(backbone, params, batch.image))
    ready = editor.request(backbone, params, known, batch)
    return editor.edit(backbone, params, state, ready, batch)


@partial(jax.jit, static_argnums=(0, 1))
def answers_from_pixels(
    editor: Editor, backbone: Backbone, params: dict, state: State, batch: Batch, at
) -> Int[Array, "B A"]:
    """Answer a whole question: tokens and pixels in, the most likely tokens at positions out."""
    known = editor.encode(backbone, params, batch, editor.see(backbone, params, batch.image))
    return _ids(editor.logits(backbone, params, state, known, batch, at))
