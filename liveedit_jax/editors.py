"""What every editor of the comparison is: three pure functions of arrays, and what they share.

    request ─ encode ─ edit ──► state
    question ─ encode ─ logits(state)

An editor is a frozen dataclass of its settings, so it can be a static argument of jit. `params` are
`{"backbone": ..., "editor": ...}` (the second only of trained editors); they never change. `encode`
is all of a row that no edit changes, computed once and shared by every state.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import jax
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.types import Batch

Known = Any  # a pytree of arrays [B, ...]
State = Any  # a pytree of arrays; its shapes do not depend on the number of edits


class Editor(Protocol):
    """One method of editing, with its settings."""

    layer: int | None  # the decoder layer it acts on, from the end if negative; None: the preset's

    def see(self, backbone: Backbone, params: dict, image: Float[Array, "B S S 3"]) -> Array:
        """What `encode` takes of pictures; computed once a picture."""
        return backbone.vision_features(params["backbone"], image)

    def encode(
        self, backbone: Backbone, params: dict, batch: Batch, seen: Float[Array, "B P D"]
    ) -> Known:
        """What no edit changes about B rows; their pictures come as `see` makes them."""

    def init(self, backbone: Backbone, params: dict, capacity: int) -> State:
        """The state before the first of at most `capacity` edits."""

    def edit(
        self, backbone: Backbone, params: dict, state: State, known: Known, batch: Batch
    ) -> State:
        """The state after one more request (image, prompt, target), a batch of one row."""

    def logits(
        self,
        backbone: Backbone,
        params: dict,
        state: State,
        known: Known,
        batch: Batch,
        at: Int[Array, "B A"],
    ) -> Float[Array, "B A V"]:
        """The edited model's logits at some positions of B rows."""


def at_layer(backbone: Backbone, weights: dict, layer: int | None) -> tuple[Backbone, dict]:
    """The model split after the layer that an editor acts on.

    Raises:
        ValueError: no such layer.
    """
    if layer is None:
        return backbone, weights
    layers_n = backbone.cfg.decoder.layers_n
    layer = layer + layers_n if layer < 0 else layer
    weights = split_at(weights, layer)
    return replace(backbone, cfg=replace(backbone.cfg, edit_layer=layer)), weights


@partial(jax.jit, static_argnums=(0, 1))
def see(editor: Editor, backbone: Backbone, params: dict, image) -> Array:
    """`editor.see`, compiled."""
    return editor.see(backbone, params, image)


@partial(jax.jit, static_argnums=(0, 1))
def encode(editor: Editor, backbone: Backbone, params: dict, batch: Batch, seen) -> Known:
    """`editor.encode`, compiled."""
    return editor.encode(backbone, params, batch, seen)


@partial(jax.jit, static_argnums=(0, 1, 3))
def init(editor: Editor, backbone: Backbone, params: dict, capacity: int) -> State:
    """`editor.init`, compiled."""
    return editor.init(backbone, params, capacity)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def edit(editor: Editor, backbone: Backbone, params: dict, state: State, known, batch) -> State:
    """`editor.edit`, compiled, in place of the state before."""
    return editor.edit(backbone, params, state, known, batch)


@partial(jax.jit, static_argnums=(0, 1))
def answers(
    editor: Editor, backbone: Backbone, params: dict, state: State, known, batch, at
) -> Int[Array, "B A"]:
    """The most likely tokens at some positions."""
    found = editor.logits(backbone, params, state, known, batch, at)
    return found.argmax(-1).astype("int32")
