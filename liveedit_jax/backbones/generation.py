"""Greedy and sampled generation with key-value caches around the edit layer.

    prompt ─ run_lower ─ intervene ─ run_upper ─► first token ─► (one token at a time, same path)

`intervene(plan, hidden, role)` is an editor's change of the edit layer's output. The plan (for
LiveEdit: the routed experts) is made once, for the prompt, and used for every token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import decoder
from liveedit_jax.backbones.attention import Cache
from liveedit_jax.backbones.backbone import Backbone
from liveedit_jax.backbones.sequence import next_crossing, next_mask, next_position
from liveedit_jax.types import Batch, Role

Intervene = Callable[[Any, Float[Array, "B T D"], Int[Array, "B T"]], Float[Array, "B T D"]]


@dataclass(frozen=True)
class Sampling:
    """The distribution that tokens are sampled from; None leaves a restriction out."""

    temperature: float = 1.0
    top_k: int | None = None  # sample among this many of the most likely tokens
    top_p: float | None = None  # sample among the fewest tokens with this total probability

    def __post_init__(self):
        """Refuse values that leave no token to sample."""
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: above 0 (greedy: no Sampling)")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: above 0 and at most 1")


def restrict_logits(sampling: Sampling, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """Apply temperature, top-k and top-p to logits; excluded tokens get -inf."""
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        least = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p is not None:
        ordered = -jnp.sort(-logits, axis=-1)
        share = jax.nn.softmax(ordered, -1)
        before = jnp.cumsum(share, -1) - share
        least = jnp.where(before < sampling.top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


@partial(jax.jit, static_argnums=(0, 3, 5, 7))
def generate(
    backbone: Backbone,
    weights: dict,
    batch: Batch,
    steps_n: int,
    plan: Any = None,
    intervene: Intervene | None = None,
    most: Int[Array, ""] | int | None = None,
    sampling: Sampling | None = None,
    key: Array | None = None,
    features: Float[Array, "B P D"] | None = None,
) -> Int[Array, "B steps"]:
    """Generate a continuation of each prompt, until EOS or `steps_n` tokens.

    Args:
        backbone: the model's functions.
        weights: its weights.
        batch: prompts without answers, right-padded.
        steps_n: the length of the result, and the most tokens to generate.
        plan: a pytree that `intervene` reads.
        intervene: changes the edit layer's output (static: pass the same object each time).
        most: stop after this many tokens, if it is less than `steps_n`. Unlike `steps_n`, it can
            change without a new compilation.
        sampling: how tokens are sampled; None: greedily.
        key: the random key for sampling.
        features: the vision features of the pictures, where they are known; `batch.image` is then
            not read.

    Returns:
        int32[B, steps_n]: tokens up to EOS, included, then padding.

    Raises:
        ValueError: `sampling` without `key`, or `key` without `sampling`.
    """
    if (sampling is None) != (key is None):
        raise ValueError("sampling needs a key, and a key a Sampling")

    def pick(logits: Float[Array, "B V"], step: Array | int) -> Int[Array, " B"]:
        if sampling is None or key is None:
            return logits.argmax(-1).astype(jnp.int32)
        drawn = jax.random.categorical(
            jax.random.fold_in(key, step), restrict_logits(sampling, logits)
        )
        return drawn.astype(jnp.int32)

    if features is None and batch.image is not None:
        features = backbone.vision_features(weights, batch.image)
    hidden = backbone.embed(weights, batch, features)
    prefill = _prefill(backbone, weights, batch, hidden, plan, intervene, pick)
    most = steps_n if most is None else jnp.minimum(most, steps_n)
    seen = next_crossing(backbone.cfg.decoder, batch, hidden)
    return _decode(backbone, weights, batch, seen, steps_n, most, plan, intervene, pick, *prefill)


def _apply(backbone, plan, intervene, hidden, role):
    if intervene is None:
        return hidden
    return backbone.keep_features(hidden, intervene(plan, hidden, role), role)


def _prefill(backbone, weights, batch, x, plan, intervene, pick):
    """Run the prompts: return the caches of all layers, the lengths, and the first tokens."""
    context = backbone.context(batch)
    hidden, lower = backbone.run_lower(weights, x, context, keep_cache=True)
    hidden = _apply(backbone, plan, intervene, hidden, batch.role)
    states, upper = backbone.run_upper(weights, hidden, context, keep_cache=True)
    length = (batch.role != Role.PAD).sum(1)  # int[B]
    last = jnp.take_along_axis(states, (length - 1)[:, None, None], axis=1)
    return (lower, upper), length, pick(backbone.head(weights, last)[:, 0], 0)


def _decode(
    backbone, weights, batch, seen, steps_n, most, plan, intervene, pick, caches, length, first
):
    cfg = backbone.cfg
    b, t = batch.token.shape
    role = jnp.full((b, 1), Role.ANSWER, batch.role.dtype)
    begin = next_position(cfg.decoder, batch)

    def room(cache: Cache) -> Cache:
        return jax.tree.map(
            lambda leaf: jnp.pad(leaf, [(0, 0), (0, 0), (0, steps_n), (0, 0), (0, 0)]), cache
        )

    def unfinished(carry):
        step, done, *_ = carry
        return (step < most) & ~done.all()

    def advance(carry):
        step, done, token, out, lower, upper = carry
        out = out.at[:, step].set(jnp.where(done, cfg.pad_id, token))
        done = done | (token == cfg.eos_id)
        at, position = (
            length + step,
            (begin + step)[:, None],
        )  # of the token: row in caches, position
        mask = next_mask(cfg.decoder, t + steps_n, at, batch.role)
        context = decoder.context(cfg.decoder, position, mask, at)._replace(cross=seen)
        x = backbone.embed_next(weights, token, position)
        hidden, lower = backbone.run_lower(weights, x, context, lower, keep_cache=True)
        hidden = _apply(backbone, plan, intervene, hidden, role)
        states, upper = backbone.run_upper(weights, hidden, context, upper, keep_cache=True)
        following = pick(backbone.head(weights, states)[:, 0], step + 1)
        return step + 1, done, following, out, lower, upper

    out = jnp.full((b, steps_n), cfg.pad_id, jnp.int32)
    carry = (jnp.zeros((), jnp.int32), jnp.zeros(b, bool), first, out, *map(room, caches))
    return jax.lax.while_loop(unfinished, advance, carry)[3]
