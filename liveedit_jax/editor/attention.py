"""Cross-attention without an output projection, in a plain and in a folded form.

    attend(x, y) = softmax(q(x) k(y)^T / sqrt(head width)) v(y)        (paper equation 2)

There are few queries (learned constants, or E vectors) and many tokens. The folded form therefore
multiplies the key matrix into the queries and applies the value matrix to the weighted mean of the
tokens, so that no token is ever projected. The key bias adds the same to every score and cancels;
the value bias passes through, because weights sum to one. The scale and bias of the LayerNorm in
front are folded in the same way, so that all modules share one set of normalised tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from liveedit_jax.types import Axis


class Value(NamedTuple):
    """The value map of an attention with the LayerNorm folded in; it is applied to token means."""

    kernel: Float[Array, "heads C D"]  # D last: CPUs then multiply few vectors at memory speed
    total: Float[Array, "heads C"]  # the kernel's sum over D, which a token's mean multiplies
    offset: Float[Array, "heads C"]


class Tokens(NamedTuple):
    """Tokens with the statistics of their LayerNorm, which gives (hidden - mean) * rate.

    The normalised tokens are not computed, since they would take as much memory as the states.
    Attention applies mean and rate to its scores and outputs instead.
    """

    hidden: Float[Array, "*B D"]
    mean: Float[Array, "*B"]
    rate: Float[Array, "*B"]


def init_linear(key: Array, in_n: int, out_n: int) -> dict:
    """Initialise a linear layer as torch does: kernel [in, out], bias, uniform in +-1/sqrt(in)."""
    kernel_key, bias_key = jax.random.split(key)
    bound = in_n**-0.5
    return {
        "kernel": jax.random.uniform(kernel_key, (in_n, out_n), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (out_n,), minval=-bound, maxval=bound),
    }


def init_norm(width: int) -> dict:
    """Initialise the parameters of a LayerNorm over `width`."""
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def init_attention(key: Array, module_width: int, width: int, value_width: int) -> dict:
    """Initialise an attention's linear layers: q: M -> M, k: D -> M, v: D -> value width."""
    q, k, v = jax.random.split(key, 3)
    return {
        "q": init_linear(q, module_width, module_width),
        "k": init_linear(k, width, module_width),
        "v": init_linear(v, width, value_width),
    }


def with_norm_stats(hidden: Float[Array, "*B D"], eps: float) -> Tokens:
    """Compute each token's LayerNorm mean and rate, 1 / standard deviation, in float32."""
    hidden = hidden.astype(jnp.float32)
    mean = hidden.mean(-1)
    spread = jnp.square(hidden - mean[..., None]).mean(-1)
    return Tokens(hidden, mean, jax.lax.rsqrt(spread + eps))


def normalise(x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    """Apply a LayerNorm without scale and bias, in float32."""
    x, mean, rate = with_norm_stats(x, eps)
    return (x - mean[..., None]) * rate[..., None]


def layer_norm(params: dict, x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    """Apply a LayerNorm with its scale and bias, in float32."""
    return normalise(x, eps) * params["scale"] + params["bias"]


def attend(
    params: dict,
    x: Float[Array, "B N M"],
    y: Float[Array, "B T D"],
    mask: Bool[Array, "B T"],
    heads_n: int,
) -> Float[Array, "B N W"]:
    """Attend from N queries to T tokens, in the plain form; a row with an empty mask gives zeros.

    W is the value width.
    """

    q, k, v = (
        project_heads(params[name], z, heads_n) for name, z in (("q", x), ("k", y), ("v", y))
    )
    scores = jnp.einsum("bnhc,bthc->bhnt", q, k) * q.shape[-1] ** -0.5
    weights = masked_softmax(scores, mask[:, None, None])
    return jnp.einsum("bhnt,bthc->bnhc", weights, v).reshape(*x.shape[:-1], -1)


def masked_softmax(
    scores: Float[Array, "*B C"], mask: Bool[Array, "*#B C"], axis: Axis | None = None
) -> Float[Array, "*B C"]:
    """Compute the softmax over the masked entries of the last axis; zeros where there are none.

    With `axis`, the last axis is split over that mesh axis.
    """
    scores = jnp.where(mask, scores, -1e30)
    most = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    most = most if axis is None else jax.lax.pmax(most, axis)
    weights = jnp.where(mask, jnp.exp(scores - most), 0.0)
    total = weights.sum(-1, keepdims=True)
    total = total if axis is None else jax.lax.psum(total, axis)
    return weights / jnp.where(total > 0, total, 1.0)


def project_heads(
    linear: dict, x: Float[Array, "... N M"], heads_n: int
) -> Float[Array, "... N H C"]:
    """Apply a linear layer to x and split the result into heads of width C."""
    q = x @ linear["kernel"] + linear["bias"]
    return q.reshape(*q.shape[:-1], heads_n, -1)


def fold_key(params: dict, norm: dict, heads_n: int) -> Float[Array, "heads D C"]:
    """Fold the LayerNorm's scale and 1/sqrt(C) into the key matrix, by heads."""
    kernel = params["k"]["kernel"]
    kernel = jnp.moveaxis(kernel.reshape(kernel.shape[0], heads_n, -1), 1, 0)
    return kernel * norm["scale"][:, None] * kernel.shape[-1] ** -0.5


def fold_query(
    key: Float[Array, "heads D C"], q: Float[Array, "... N heads C"]
) -> Float[Array, "... N heads D"]:
    """Fold the key matrix into queries: the results score normalised tokens directly."""
    return jnp.einsum("...nhc,hdc->...nhd", q, key)


def fold_constant(
    params: dict, norm: dict, x: Float[Array, "... N M"], heads_n: int
) -> Float[Array, "... N heads D"]:
    """Fold the key matrix into learned constant queries, once per checkpoint."""
    return fold_query(fold_key(params, norm, heads_n), project_heads(params["q"], x, heads_n))


def fold_value(params: dict, norm: dict, heads_n: int) -> Value:
    """Fold the LayerNorm's scale and bias into the value map."""
    kernel, bias = params["v"]["kernel"], params["v"]["bias"] + norm["bias"] @ params["v"]["kernel"]
    kernel = (kernel * norm["scale"][:, None]).T.reshape(heads_n, -1, kernel.shape[0])
    return Value(kernel, kernel.sum(-1), bias.reshape(heads_n, -1))


def attend_folded(
    query: Float[Array, "N heads D"] | Float[Array, "B N heads D"],
    value: Value,
    tokens: Tokens,
    mask: Bool[Array, "B T"],
) -> Float[Array, "B N W"]:
    """Attend from N folded queries to T tokens; a row with an empty mask gives zeros.

    Equal to `attend` on the normalised tokens. W = heads * C is the value width.
    """
    *lead, n, heads_n, d = query.shape
    query = query.reshape(*lead, n * heads_n, d)
    # These products are written in the forms that CPUs do at full speed. The barrier keeps the
    # compiler from merging the transposition into the product, which would be slow.
    if not lead:  # constant queries
        scores = jnp.einsum("md,btd->bmt", query, tokens.hidden)
    else:
        scores = jnp.einsum("bmd,btd->btm", query, tokens.hidden)
        scores = jax.lax.optimization_barrier(scores).swapaxes(1, 2)
    mean, rate = tokens.mean[:, None], tokens.rate[:, None]
    scores = (scores - mean * query.sum(-1)[..., None]) * rate
    weights = masked_softmax(scores, mask[:, None]) * rate
    found = jnp.einsum("bmt,btd->bmd", weights, tokens.hidden).reshape(-1, n, heads_n, d)
    found = found.transpose(2, 0, 1, 3).reshape(heads_n, -1, d)
    out = jnp.einsum("hcd,hmd->hcm", value.kernel, found).reshape(-1, len(mask), n)
    shift = (weights * mean).sum(-1).reshape(-1, n, heads_n, 1)
    shift = (value.offset - shift * value.total).reshape(*shift.shape[:2], -1)
    return jnp.where(mask.any(-1)[:, None, None], out.transpose(1, 2, 0) + shift, 0.0)


def compact(tokens: Tokens, mask: Bool[Array, "B T"], n: int) -> tuple[Tokens, Bool[Array, "B n"]]:
    """Move the masked tokens of each row, at most n, to the front, and drop the others."""
    at = jnp.argsort(~mask, axis=1, stable=True)[:, :n]
    moved = Tokens(
        jnp.take_along_axis(tokens.hidden, at[..., None], 1),
        *(jnp.take_along_axis(x, at, 1) for x in tokens[1:]),
    )
    return moved, jnp.take_along_axis(mask, at, 1)
