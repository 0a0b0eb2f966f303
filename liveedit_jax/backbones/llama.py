"""The Llama decoder layer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.config import DecoderConfig


class Cache(NamedTuple):
    """Keys and values of one layer (or, with a leading axis, of a stack of layers)."""

    key: Float[Array, "B S G C"]
    value: Float[Array, "B S G C"]


class Context(NamedTuple):
    """What every layer of one forward pass shares.

    `mask[b, t, s]` lets token t see key s. In decoding, keys live in a cache of S rows and this
    pass writes its tokens' rows at `write[b]`; elsewhere `write` is None and keys are the tokens'.
    """

    cos: Float[Array, "B T C"]
    sin: Float[Array, "B T C"]
    mask: Bool[Array, "B T S"]
    write: Int[Array, " B"] | None = None


def rotary(
    position: Int[Array, "B T"], head_width: int, base: float
) -> tuple[Float[Array, "B T C"], Float[Array, "B T C"]]:
    """Cosines and sines of the half-split rotation, each frequency twice."""
    frequency = base ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    angle = position[..., None].astype(jnp.float32) * frequency
    angle = jnp.concatenate([angle, angle], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "B T N C"], cos: Array, sin: Array) -> Float[Array, "B T N C"]:
    """Apply the rotary positions to every head."""
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos[:, :, None] + turned * sin[:, :, None]).astype(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * scale, computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalised states."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        rms = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * rms).astype(x.dtype) * scale


class Attention(nn.Module):
    """Grouped-query attention; each of G key heads serves a group of query heads."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: Context, cache: Cache | None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Attended states, and the keys and values that were attended to."""
        cfg = self.cfg
        b, t, _ = x.shape
        flat = rearrange(x, "b t d -> (b t) d")  # one large matrix product beats B small ones

        def heads(n: int, name: str) -> Float[Array, "B T N C"]:
            y = nn.Dense(n * cfg.head_width, use_bias=False, name=name)(flat)
            return rearrange(y, "(b t) (n c) -> b t n c", b=b, n=n)

        query = rotate(heads(cfg.heads_n, "q"), context.cos, context.sin)
        key = rotate(heads(cfg.kv_heads_n, "k"), context.cos, context.sin)
        value = heads(cfg.kv_heads_n, "v")
        if cache is not None:
            rows = jnp.arange(b)[:, None]
            slots = context.write[:, None] + jnp.arange(t)
            key = cache.key.at[rows, slots].set(key)
            value = cache.value.at[rows, slots].set(value)
        g = cfg.kv_heads_n
        grouped = rearrange(query, "b t (g r) c -> (b g) (r t) c", g=g)
        keys = rearrange(key, "b s g c -> (b g) s c")
        values = rearrange(value, "b s g c -> (b g) s c")
        scores = jnp.einsum("xqc,xsc->xqs", grouped, keys).astype(jnp.float32)
        scores = rearrange(scores, "(b g) (r t) s -> b (g r) t s", b=b, t=t)
        scores = scores * cfg.head_width**-0.5 + jnp.where(context.mask, 0.0, -1e30)[:, None]
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        weights = rearrange(weights, "b (g r) t s -> (b g) (r t) s", g=g)
        mixed = jnp.einsum("xqs,xsc->xqc", weights, values)
        mixed = rearrange(mixed, "(b g) (r t) c -> (b t) (g r c)", b=b, t=t)
        out = nn.Dense(cfg.width, use_bias=False, name="o")(mixed)
        return rearrange(out, "(b t) d -> b t d", b=b), Cache(key, value)


class DecoderLayer(nn.Module):
    """One Llama layer; a scan body (hidden, cache) -> (hidden, cache or None)."""

    cfg: DecoderConfig
    keep_cache: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], cache: Cache | None, context: Context
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """The layer's output and, with `keep_cache`, its keys and values."""
        cfg = self.cfg
        y, cache = Attention(cfg, name="attention")(
            RMSNorm(cfg.norm_eps, name="norm1")(x), context, cache
        )
        x = x + y
        y = rearrange(RMSNorm(cfg.norm_eps, name="norm2")(x), "b t d -> (b t) d")
        gate = nn.Dense(cfg.mlp_width, use_bias=False, name="gate")(y)
        up = nn.Dense(cfg.mlp_width, use_bias=False, name="up")(y)
        y = nn.Dense(cfg.width, use_bias=False, name="down")(jax.nn.silu(gate) * up)
        x = x + rearrange(y, "(b t) d -> b t d", b=x.shape[0])
        return x, cache if self.keep_cache else None


def decoder_stack(cfg: DecoderConfig, layers_n: int, cached: bool, keep_cache: bool) -> nn.Module:
    """`layers_n` decoder layers under one scan; every parameter has a leading layer axis.

    Called as `stack(hidden, cache, context)`; `cached` says that a stacked cache is given (else
    None), `keep_cache` that the layers' keys and values are returned, stacked.
    """
    scanned = nn.scan(
        DecoderLayer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0 if cached else nn.broadcast, nn.broadcast),
        length=layers_n,
    )
    return scanned(cfg, keep_cache)
