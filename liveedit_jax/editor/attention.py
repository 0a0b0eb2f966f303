"""Cross-attention without an output projection, in its plain and its absorbed form.

    attend(x, y) = softmax(q(x) k(y)^T / sqrt(head width)) v(y)        (paper equation 2)

Queries here are few (learned constants, or E vectors), tokens are many. So the key matrix is folded
into the queries and the value matrix applied to the weighted means: no token is ever projected. The
key bias adds the same to every score and cancels; the value bias passes through, as weights sum to
one. The LayerNorm's scale and bias fold in the same way, so all modules share one normalised token.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Value(NamedTuple):
    """What turns a weighted mean of normalised tokens into an attention output."""

    scale: Float[Array, " D"]  # of the LayerNorm in front
    bias: Float[Array, " D"]
    kernel: Float[Array, "D heads C"]
    offset: Float[Array, "heads C"]


def init_linear(key: Array, in_n: int, out_n: int) -> dict:
    """As torch's Linear: kernel [in, out] and bias uniform in +-1/sqrt(in)."""
    kernel_key, bias_key = jax.random.split(key)
    bound = in_n**-0.5
    return {
        "kernel": jax.random.uniform(kernel_key, (in_n, out_n), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (out_n,), minval=-bound, maxval=bound),
    }


def init_norm(width: int) -> dict:
    """LayerNorm parameters."""
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def init_attention(key: Array, module_width: int, width: int, value_width: int) -> dict:
    """q: M -> M, k: D -> M, v: D -> value width."""
    q, k, v = jax.random.split(key, 3)
    return {
        "q": init_linear(q, module_width, module_width),
        "k": init_linear(k, width, module_width),
        "v": init_linear(v, width, value_width),
    }


def normalise(x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    """LayerNorm without its scale and bias, in float32."""
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps)


def layer_norm(params: dict, x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    """LayerNorm with its scale and bias."""
    return normalise(x, eps) * params["scale"] + params["bias"]


def attend(
    params: dict,
    x: Float[Array, "B N M"],
    y: Float[Array, "B T D"],
    mask: Bool[Array, "B T"],
    heads_n: int,
) -> Float[Array, "B N W"]:
    """The plain form; rows whose mask is empty give zeros."""

    def project(name: str, z: Array) -> Array:
        z = z @ params[name]["kernel"] + params[name]["bias"]
        return z.reshape(*z.shape[:-1], heads_n, -1)

    q, k, v = project("q", x), project("k", y), project("v", y)
    scores = jnp.einsum("bnhc,bthc->bhnt", q, k) * q.shape[-1] ** -0.5
    weights = masked_softmax(scores, mask[:, None, None])
    return jnp.einsum("bhnt,bthc->bnhc", weights, v).reshape(*x.shape[:-1], -1)


def masked_softmax(
    scores: Float[Array, "*B C"], mask: Bool[Array, "*B C"], axis: str | None = None
) -> Float[Array, "*B C"]:
    """Softmax over the last axis where `mask` is True; all zeros where it is nowhere True.

    With `axis` the last axis is split over that mesh axis.
    """
    scores = jnp.where(mask, scores, -1e30)
    most = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    most = most if axis is None else jax.lax.pmax(most, axis)
    weights = jnp.where(mask, jnp.exp(scores - most), 0.0)
    total = weights.sum(-1, keepdims=True)
    total = total if axis is None else jax.lax.psum(total, axis)
    return weights / jnp.where(total > 0, total, 1.0)


def fold_query(
    params: dict, norm: dict, x: Float[Array, "... N M"], heads_n: int
) -> Float[Array, "... N heads D"]:
    """The query vectors that score normalised tokens directly: scale * (W_k^T q) / sqrt(width)."""
    q = x @ params["q"]["kernel"] + params["q"]["bias"]
    q = q.reshape(*q.shape[:-1], heads_n, -1) * (q.shape[-1] // heads_n) ** -0.5
    kernel = params["k"]["kernel"]
    kernel = kernel.reshape(kernel.shape[0], heads_n, -1)  # f32[D, heads, C]
    return jnp.einsum("...nhc,dhc->...nhd", q, kernel) * norm["scale"]


def fold_value(params: dict, norm: dict, heads_n: int) -> Value:
    """The value side of an absorbed attention."""
    kernel, bias = params["v"]["kernel"], params["v"]["bias"]
    return Value(
        norm["scale"],
        norm["bias"],
        kernel.reshape(kernel.shape[0], heads_n, -1),
        bias.reshape(heads_n, -1),
    )


def attend_folded(
    query: Float[Array, "N heads D"] | Float[Array, "B N heads D"],
    value: Value,
    tokens: Float[Array, "B T D"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B N W"]:
    """The absorbed form, on normalised tokens; rows whose mask is empty give zeros."""
    if query.ndim == 3:  # constant queries: one product for the whole batch
        scores = jnp.einsum("btd,nhd->bnht", tokens, query)
    else:
        scores = jnp.einsum("btd,bnhd->bnht", tokens, query)
    weights = masked_softmax(scores, mask[:, None, None])
    mean = jnp.einsum("bnht,btd->bnhd", weights, tokens) * value.scale + value.bias
    out = jnp.einsum("bnhd,dhc->bnhc", mean, value.kernel) + value.offset
    some = mask.any(-1)[:, None, None]
    return jnp.where(some, out.reshape(*out.shape[:2], -1), 0.0)
