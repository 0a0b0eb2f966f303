"""The decoders' self-attention: grouped queries, optional rotary positions, key-value cache."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbones.linear import Linear
from liveedit_jax.backbones.norms import RMSNorm
from liveedit_jax.types import AnyArray

BLOCK = 1024  # most queries whose scores are computed at once


class Cache(NamedTuple):
    """Keys and values of one layer (or, with a leading axis, of a stack of layers)."""

    key: Float[Array, "B S G C"]
    value: Float[Array, "B S G C"]


class Crossing(NamedTuple):
    """Hold the inputs of the gated cross-attention in front of some layers.

    Token t may read feature s where `mask[b, t, s]` is True. Features are S rows of states, of the
    pass itself where `features` is None; no layer changes those rows, which `carried` marks.
    """

    mask: Bool[Array, "B T S"]
    carried: Bool[AnyArray, "B T"] | None = None
    features: Float[Array, "B S D"] | None = None
    weights: dict | None = None  # of all cross-attention layers, stacked; None: none is applied


class Context(NamedTuple):
    """The inputs that all layers of a forward pass share.

    Token t may attend to key s where `mask[k, b, t, s]` is True. In decoding, keys are in a cache
    of S rows, and the pass writes those of its tokens from row `write[b]` on; otherwise `write` is
    None and the keys are the tokens' own. `cos` and `sin` are None unless positions are rotary.

    The axis K is that of the decoder's kinds of layers. Arrays that all kinds share have K = 1.
    """

    cos: Float[Array, "K B T C"] | None
    sin: Float[Array, "K B T C"] | None
    mask: Bool[Array, "K B T S"]
    write: Int[Array, " B"] | None = None
    cross: Crossing | None = None  # None: the decoder has no cross-attention

    def of(self, kind: Int[Array, ""] | int | None) -> LayerContext:
        """Select what a layer of one kind needs (None: all layers are alike).

        Raises:
            ValueError: there are several kinds, and none is given.
        """

        def pick(x: Array) -> Array:
            if len(x) == 1:
                return x[0]
            if kind is None:
                raise ValueError(f"a layer of which of {len(x)} kinds?")
            return x[kind]

        cos = None if self.cos is None else pick(self.cos)
        sin = None if self.sin is None else pick(self.sin)
        return LayerContext(cos, sin, pick(self.mask), self.write)


class LayerContext(NamedTuple):
    """A `Context` of one kind of layers, without the axis K."""

    cos: Float[Array, "B T C"] | None
    sin: Float[Array, "B T C"] | None
    mask: Bool[Array, "B T S"]
    write: Int[Array, " B"] | None = None


def rotary(
    position: Int[AnyArray, "B T"] | Int[AnyArray, "B T 3"],
    head_width: int,
    base: float,
    axes: tuple[int, ...] = (),
    factor: float = 1.0,
) -> tuple[Float[Array, "B T C"], Float[Array, "B T C"]]:
    """Compute the cosines and sines of rotary positions, in the half-split layout.

    With `axes`, positions have several axes, of which each frequency takes the one named. They are
    divided by `factor`.
    """
    frequency = base ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    if factor != 1:
        frequency = frequency / factor
    turned = position[..., jnp.asarray(axes)] if axes else position[..., None]
    angle = turned.astype(jnp.float32) * frequency
    angle = jnp.concatenate([angle, angle], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "B T N C"], cos: Array, sin: Array) -> Float[Array, "B T N C"]:
    """Apply rotary positions to every head."""
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos[:, :, None] + turned * sin[:, :, None]).astype(x.dtype)


def attend(
    query: Float[Array, "B T N C"],
    key: Float[Array, "B S G C"],
    value: Float[Array, "B S G C"],
    mask: Bool[Array, "B T S"],
    scale: float | None = None,
    cap: float | None = None,
) -> Float[Array, "B T N C"]:
    """Compute grouped-query softmax attention with N query heads and G key heads.

    Scores are multiplied by `scale` (None: 1 / sqrt(C)) and, with `cap`, softly kept within it.
    Long sequences are processed in blocks of queries to save memory. Softmax is in float32.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    t = query.shape[1]
    blocks_n = -(-t // BLOCK)
    if blocks_n == 1:
        return _attend(query, key, value, mask, scale, cap)
    block = -(-t // blocks_n)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, blocks_n * block - t), *[(0, 0)] * (x.ndim - 2)))
        return rearrange(x, "b (n t) ... -> n b t ...", n=blocks_n)

    @jax.checkpoint
    def one(cut: tuple[Array, Array]) -> Array:
        return _attend(cut[0], key, value, cut[1], scale, cap)

    mixed = jax.lax.map(one, (cut(query), cut(mask)))
    return rearrange(mixed, "n b t h c -> b (n t) h c")[:, :t]


def _attend(
    query: Array, key: Array, value: Array, mask: Array, scale: float, cap: float | None
) -> Array:
    (b, t, *_), g = query.shape, key.shape[2]
    grouped = rearrange(query, "b t (g r) c -> (b g) (r t) c", g=g)
    keys = rearrange(key, "b s g c -> (b g) s c")
    values = rearrange(value, "b s g c -> (b g) s c")
    scores = jnp.einsum("xqc,xsc->xqs", grouped, keys).astype(jnp.float32)
    scores = rearrange(scores, "(b g) (r t) s -> b (g r) t s", b=b, t=t)
    scores = scores * scale
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    scores = scores + jnp.where(mask, 0.0, -1e30)[:, None]
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = rearrange(weights, "b (g r) t s -> (b g) (r t) s", g=g)
    mixed = jnp.einsum("xqs,xsc->xqc", weights, values)
    return rearrange(mixed, "(b g) (r t) c -> b t (g r) c", b=b, t=t)


class Attention(nn.Module):
    """Grouped-query attention, in which groups of query heads share `kv_heads_n` key heads."""

    heads_n: int
    kv_heads_n: int
    head_width: int
    qkv_bias: bool = False
    out_bias: bool = False
    norm_eps: float | None = None  # of the norms of queries and keys; None: there are none
    scale: float | None = None
    cap: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: LayerContext, cache: Cache | None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Return the attention's output, and the keys and values it attended to."""
        b, t, width = x.shape
        flat = rearrange(x, "b t d -> (b t) d")  # one large matrix product beats B small ones

        def heads(n: int, name: str) -> Float[Array, "B T N C"]:
            y = Linear(n * self.head_width, self.qkv_bias, name=name)(flat)
            return rearrange(y, "(b t) (n c) -> b t n c", b=b, n=n)

        def turned(n: int, name: str) -> Float[Array, "B T N C"]:
            y = heads(n, name)
            if self.norm_eps is not None:
                y = RMSNorm(self.norm_eps, name=f"{name}_norm")(y)
            if context.cos is None or context.sin is None:
                return y
            return rotate(y, context.cos, context.sin)

        query, key = turned(self.heads_n, "q"), turned(self.kv_heads_n, "k")
        value = heads(self.kv_heads_n, "v")
        if cache is not None:
            assert context.write is not None
            rows = jnp.arange(b)[:, None]
            slots = context.write[:, None] + jnp.arange(t)
            key = cache.key.at[rows, slots].set(key)
            value = cache.value.at[rows, slots].set(value)
        mixed = attend(query, key, value, context.mask, self.scale, self.cap)
        out = Linear(width, self.out_bias, name="o")(rearrange(mixed, "b t n c -> (b t) (n c)"))
        return rearrange(out, "(b t) d -> b t d", b=b), Cache(key, value)
