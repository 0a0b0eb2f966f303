"""The interface of all editors, LiveEdit and baselines alike: a few pure functions of arrays.

    request ─ encode ─ request ─ edit ──► state
    question ─ encode ─ logits(state)

The evaluation knows editors by this interface alone. An editor is a frozen dataclass of its
settings, so that it can be a static argument of jit. `params` is `{"backbone": weights, "editor":
params}`, the second part for trained editors only; it never changes. `encode` computes the part of
a row that does not depend on edits, once for all states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol, TypeGuard

import jax
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.types import AnyArray, Batch, Route

Encoding = Any  # the result of `encode`: a pytree of arrays [B, ...]
State = Any  # a pytree of arrays whose shapes do not depend on the number of edits


class Editor(Protocol):
    """A method of editing with its settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    layer: int | None = None  # the layer it acts on, from the end if negative; None: the preset's
    together: int = 1  # requests that one call of `edit` takes; missing ones are rows of PAD
    routes: bool = False  # whether it is a RoutedEditor

    def prepare(self, trained: Any) -> Any:
        """Compute `params["editor"]` from trained weights, once per checkpoint."""
        return trained

    def encode_image(
        self, backbone: Backbone, params: dict, image: Float[AnyArray, "B S S 3"]
    ) -> Array:
        """Compute what `encode` needs of pictures, once per picture."""
        return backbone.vision_features(params["backbone"], image)

    def encode(
        self, backbone: Backbone, params: dict, batch: Batch, seen: Float[Array, "B P D"]
    ) -> Encoding:
        """Compute the part of B rows that no edit changes; `seen` is their `encode_image`."""

    def unedited_logits(
        self,
        backbone: Backbone,
        params: dict,
        known: Encoding,
        batch: Batch,
        seen: Float[Array, "B P D"],
        at: Int[Array, "B A"],
    ) -> Float[Array, "B A V"]:
        """Compute the unedited model's logits at positions `at` of B rows."""
        hidden = backbone.lower_from_features(params["backbone"], batch, seen)
        return backbone.upper(params["backbone"], hidden, batch, at)

    def request(self, backbone: Backbone, params: dict, known: Encoding, batch: Batch) -> Encoding:
        """Compute what `edit` needs of B requests, independently of earlier edits."""
        return known

    def init(self, backbone: Backbone, params: dict, capacity: int) -> State:
        """Create the state before the first of at most `capacity` edits."""

    def edit(
        self, backbone: Backbone, params: dict, state: State, known: Encoding, batch: Batch
    ) -> State:
        """Apply `together` more requests (image, prompt, target); `known` is their `request`."""

    def logits(
        self,
        backbone: Backbone,
        params: dict,
        state: State,
        known: Encoding,
        batch: Batch,
        at: Int[Array, "B A"],
    ) -> Float[Array, "B A V"]:
        """Compute the edited model's logits at positions `at` of B rows."""


class RoutedEditor(Editor, Protocol):
    """An editor that stores edits and selects some of them for every question.

    A question for which it selects none is answered as by the unedited model. The selection depends
    on the question's picture and prompt alone. It can be made as of a moment in the past, so that
    one state holds the edits of many chunks. `edit` stores what `request` made.
    """

    routes: bool = True

    @property
    def add(self) -> Callable[[Any, Array, Array], Array]:
        """Return `intervene` for generation; it takes a `plan`."""

    def edit(
        self,
        backbone: Backbone | None,
        params: dict | None,
        state: State,
        known: Encoding,
        batch: Batch,
    ) -> State:
        """Store `together` more requests; neither `backbone` nor `params` is read."""

    def query(self, known: Encoding) -> Any:
        """Return the part of `encode`'s result that `route` reads."""

    def chunk(self, state: State, mark: int) -> State:
        """Divide the edits into chunks of `mark`, so that moment c has chunk c alone."""

    def route(
        self, params: dict, state: State, query: Any, at: Int[Array, "B 1"]
    ) -> tuple[Route, Float[Array, " B"]]:
        """Select the edits for B questions as of moments `at`, and return each margin.

        The margin is the best score over the threshold: above 0 something is hit.
        """

    def plan(self, params: dict, state: State, route: Route) -> Any:
        """Gather the routed edits' arrays, which generation carries along for `add`."""

    def logits(
        self,
        backbone: Backbone,
        params: dict,
        state: State,
        known: Encoding,
        batch: Batch,
        at: Int[Array, "B A"],
        route: Route | None = None,
    ) -> Float[Array, "B A V"]:
        """Compute the edited model's logits with a route (None: the route of now)."""


def is_routed(editor: Editor) -> TypeGuard[RoutedEditor]:
    """Return whether an editor selects some of its edits for every question."""
    return editor.routes


def split_at_layer(backbone: Backbone, weights: dict, layer: int | None) -> tuple[Backbone, dict]:
    """Split a model after the layer that an editor acts on (None: leave the split as it is).

    Raises:
        ValueError: the model has no such layer.
    """
    if layer is None:
        return backbone, weights
    layers_n = backbone.cfg.decoder.layers_n
    layer = layer + layers_n if layer < 0 else layer
    weights = split_at(weights, layer)
    return replace(backbone, cfg=replace(backbone.cfg, edit_layer=layer)), weights


def _most_likely(logits: Float[Array, "B A V"]) -> Int[Array, "B A"]:
    return logits.argmax(-1).astype("int32")


@partial(jax.jit, static_argnums=0)
def prepare(editor: Editor, trained: Any) -> Any:
    """Run `editor.prepare`, compiled."""
    return editor.prepare(trained)


@partial(jax.jit, static_argnums=(0, 1))
def encode_image(editor: Editor, backbone: Backbone, params: dict, image) -> Array:
    """Run `editor.encode_image`, compiled."""
    return editor.encode_image(backbone, params, image)


@partial(jax.jit, static_argnums=(0, 1))
def encode(editor: Editor, backbone: Backbone, params: dict, batch: Batch, seen) -> Encoding:
    """Run `editor.encode`, compiled."""
    return editor.encode(backbone, params, batch, seen)


@partial(jax.jit, static_argnums=(0, 1))
def encode_and_answer(
    editor: Editor, backbone: Backbone, params: dict, batch: Batch, seen, at
) -> tuple[Encoding, Int[Array, "B A"]]:
    """Run `editor.encode`, and return the unedited model's most likely tokens at positions `at`."""
    known = editor.encode(backbone, params, batch, seen)
    return known, _most_likely(editor.unedited_logits(backbone, params, known, batch, seen, at))


@partial(jax.jit, static_argnums=(0, 1))
def request(editor: Editor, backbone: Backbone, params: dict, batch: Batch, seen) -> Encoding:
    """Run `editor.encode` and `editor.request`, compiled."""
    known = editor.encode(backbone, params, batch, seen)
    return editor.request(backbone, params, known, batch)


@partial(jax.jit, static_argnums=(0, 1, 3))
def init(editor: Editor, backbone: Backbone, params: dict, capacity: int) -> State:
    """Run `editor.init`, compiled."""
    return editor.init(backbone, params, capacity)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def edit(editor: Editor, backbone: Backbone, params: dict, state: State, known, batch) -> State:
    """Run `editor.edit`, compiled; `state` is donated."""
    return editor.edit(backbone, params, state, known, batch)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def store(editor: RoutedEditor, state: State, known: Encoding, batch: Batch) -> State:
    """Run `editor.edit` of a RoutedEditor, which needs no model; `state` is donated."""
    return editor.edit(None, None, state, known, batch)


@partial(jax.jit, static_argnums=(0, 1))
def answers(
    editor: Editor, backbone: Backbone, params: dict, state: State, known, batch, at, route=None
) -> Int[Array, "B A"]:
    """Return the edited model's most likely tokens; only a RoutedEditor takes a `route`."""
    routed = {} if route is None else {"route": route}
    return _most_likely(editor.logits(backbone, params, state, known, batch, at, **routed))


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
    """Apply an edit, from tokens and pixels to the new state; `state` is donated."""
    assert batch.image is not None
    seen = editor.encode_image(backbone, params, batch.image)
    known = editor.encode(backbone, params, batch, seen)
    ready = editor.request(backbone, params, known, batch)
    return editor.edit(backbone, params, state, ready, batch)


@partial(jax.jit, static_argnums=(0, 1))
def answers_from_pixels(
    editor: Editor, backbone: Backbone, params: dict, state: State, batch: Batch, at
) -> Int[Array, "B A"]:
    """Answer questions, from tokens and pixels to the most likely tokens at positions `at`."""
    assert batch.image is not None
    seen = editor.encode_image(backbone, params, batch.image)
    known = editor.encode(backbone, params, batch, seen)
    return _most_likely(editor.logits(backbone, params, state, known, batch, at))
