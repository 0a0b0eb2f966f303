"""Shapes of `tiny` that train in a moment."""

from dataclasses import replace
from functools import cache

import jax

from liveedit_jax.backbones import Backbone
from liveedit_jax.presets import preset

TINY = preset("tiny-paper")
SMALL = replace(
    TINY.backbone,
    vision=replace(TINY.backbone.vision, width=24, layers_n=3, heads_n=2, mlp_width=32),
    decoder=replace(
        TINY.backbone.decoder, width=32, layers_n=4, heads_n=2, kv_heads_n=1, head_width=16,
        mlp_width=32,
    ),
)  # fmt: skip
EDITOR = replace(TINY.editor, module_width=16, heads_n=2, rank=2)


@cache
def small_weights() -> dict:
    """Random weights, made once."""
    return jax.jit(Backbone(SMALL).init)(jax.random.key(0))
