"""The feature extractors of edits and queries: the paper's f_fe (equations 3 and 4).

    text(prompt)          = attend(text queries, LN2(prompt))
    vision(prompt, image) = attend(attend(vision queries, LN1(prompt)), LN1(image))
    sentinel(prompt)      = vision(prompt, the learned sentinel)

There are two extractors, one for edits and one for queries; only the latter has a sentinel.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import attention as att

PROMPT_N = 32  # length to which prompts are compacted, in rows at least twice as long


class Extractor(NamedTuple):
    """An extractor with its constants folded (see `prepare`)."""

    text_query: Float[Array, "E heads D"]
    text_value: att.Value
    prompt_query: Float[Array, "E heads D"]
    prompt_value: att.Value
    vision_query: dict  # a linear layer: these queries depend on the prompt
    vision_key: Float[Array, "heads D C"]
    vision_value: att.Value
    sentinel_key: Float[Array, "P heads C"] | None
    sentinel_value: Float[Array, "P heads C"] | None


def _init_learned(key: Array, a: int, b: int) -> Float[Array, "a b"]:
    return jax.random.normal(key, (a, b)) * (2 / (a * b)) ** 0.5


def init_extractor(key: Array, cfg: EditorConfig, width: int, vision_n: int | None) -> dict:
    """Initialise an extractor for width D, with a sentinel of `vision_n` = P rows or without one.

    The edit side has no sentinel: its `vision_n` is None.
    """
    keys = jax.random.split(key, 6)
    m = cfg.module_width
    vision = att.init_attention(keys[3], m, width, m)
    vision["v"] = jax.tree.map(lambda leaf: cfg.vision_init_scale * leaf, vision["v"])
    params = {
        "norm1": att.init_norm(width),
        "norm2": att.init_norm(width),
        "vision_query": _init_learned(keys[0], cfg.queries_n, m),
        "text_query": _init_learned(keys[1], cfg.queries_n, m),
        "prompt_attention": att.init_attention(keys[2], m, width, m),
        "vision_attention": vision,
        "text_attention": att.init_attention(keys[4], m, width, m),
    }
    if vision_n is not None:
        params["sentinel"] = _init_learned(keys[5], vision_n, width)
    return params


def prepare(cfg: EditorConfig, params: dict) -> Extractor:
    """Fold the constants of an extractor's parameters; training differentiates through it."""
    h = cfg.heads_n
    norm1, norm2, vision = params["norm1"], params["norm2"], params["vision_attention"]
    key = value = None
    if "sentinel" in params:
        tokens = att.layer_norm(norm1, params["sentinel"], cfg.norm_eps)
        key = (tokens @ vision["k"]["kernel"] + vision["k"]["bias"]).reshape(len(tokens), h, -1)
        value = (tokens @ vision["v"]["kernel"] + vision["v"]["bias"]).reshape(len(tokens), h, -1)
    return Extractor(
        text_query=att.fold_constant(params["text_attention"], norm2, params["text_query"], h),
        text_value=att.fold_value(params["text_attention"], norm2, h),
        prompt_query=att.fold_constant(
            params["prompt_attention"], norm1, params["vision_query"], h
        ),
        prompt_value=att.fold_value(params["prompt_attention"], norm1, h),
        vision_query=vision["q"],
        vision_key=att.fold_key(vision, norm1, h),
        vision_value=att.fold_value(vision, norm1, h),
        sentinel_key=key,
        sentinel_value=value,
    )


def prompt_features(
    side: Extractor, tokens: att.Tokens, prompt_mask: Bool[Array, "B T"]
) -> tuple[Float[Array, "B E M"], Float[Array, "B E M"]]:
    """Compute the text features and the prompts' queries to the image.

    Prompts are much shorter than rows with pictures. Where every prompt of a batch has at most
    PROMPT_N tokens, these are compacted first, and the rest of the row is not read.
    """

    def read(tokens: att.Tokens, mask: Array) -> tuple[Array, Array]:
        return (
            att.attend_folded(side.text_query, side.text_value, tokens, mask),
            att.attend_folded(side.prompt_query, side.prompt_value, tokens, mask),
        )

    if prompt_mask.shape[1] < 2 * PROMPT_N:
        return read(tokens, prompt_mask)
    return jax.lax.cond(
        prompt_mask.sum(-1).max() <= PROMPT_N,
        lambda: read(*att.compact(tokens, prompt_mask, PROMPT_N)),
        lambda: read(tokens, prompt_mask),
    )


def vision_feature(
    side: Extractor,
    prompt: Float[Array, "B E M"],
    tokens: att.Tokens,
    vision_mask: Bool[Array, "B T"],
) -> Float[Array, "B E M"]:
    """Compute the vision features: the prompts' queries attend to the image tokens."""
    heads_n = side.vision_key.shape[0]
    query = att.fold_query(side.vision_key, att.project_heads(side.vision_query, prompt, heads_n))
    return att.attend_folded(query, side.vision_value, tokens, vision_mask)


def sentinel_feature(side: Extractor, prompt: Float[Array, "B E M"]) -> Float[Array, "B E M"]:
    """Compute the sentinel features: the prompts' queries attend to the learned sentinel.

    Their similarity to the vision features is the threshold of hard routing.
    """
    q = att.project_heads(side.vision_query, prompt, side.vision_key.shape[0])
    scores = jnp.einsum("behc,phc->behp", q, side.sentinel_key) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores, -1)
    out = jnp.einsum("behp,phc->behc", weights, side.sentinel_value)
    return out.reshape(prompt.shape)
