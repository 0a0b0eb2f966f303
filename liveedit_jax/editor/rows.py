"""Stored rows: C vectors in float32, bfloat16 or 8 bits, written in place, read as float32.

A narrow vector has a float32 scale, chosen so that its product with the vector it stands for is
exact: rounding errors in its own direction, which every query like it shares, cancel. bfloat16 is
kept as its bits: XLA's CPU backend would widen the whole array before it slices one. In 8 bits
every GROUP_N entries have a step besides, itself in 8 bits of the vector's scale. 8-bit keys are
kept `turned`: an orthogonal map changes no product, spreads large entries over many, and makes the
rounding errors of different keys different. Products with narrow rows are taken in blocks, so that
what is widened is one block and not the repository.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt16
from scipy.linalg import hadamard

from liveedit_jax.config import Precision
from liveedit_jax.types import Rows

try:
    from jax.experimental.compute_on import compute_on2 as compute_on  # its name in JAX 0.10
except ImportError:
    from jax.experimental.compute_on import compute_on

GROUP_N = 8  # entries that share a step
BLOCK = 512  # rows widened at a time: 8 MB at LLaVA's key width
DTYPES = {
    Precision.F32: jnp.float32,
    Precision.BF16: jnp.uint16,
    Precision.INT8: jnp.int8,
}


def _group(width: int) -> int:
    """The largest divisor of `width` up to GROUP_N."""
    return max(n for n in range(1, GROUP_N + 1) if width % n == 0)


def empty_rows(shape: tuple[int, ...], precision: Precision) -> Rows:
    """Zeros of `shape` [C, ..., W]."""
    value = jnp.zeros(shape, DTYPES[precision])
    if precision == Precision.F32:
        return Rows(value)
    step = None
    if precision == Precision.INT8:
        step = jnp.zeros((*shape[:-1], shape[-1] // _group(shape[-1])), jnp.uint8)
    return Rows(value, step, jnp.zeros(shape[:-1]))


def _bits(value: Float[Array, "N ... W"]) -> UInt16[Array, "N ... W"]:
    return jax.lax.bitcast_convert_type(value.astype(jnp.bfloat16), jnp.uint16)


def _unscaled(rows: Rows) -> Float[Array, "C ... W"]:
    """Vectors in float32, but for their scale."""
    if rows.value.dtype == jnp.uint16:
        return jax.lax.bitcast_convert_type(rows.value.astype(jnp.uint32) << 16, jnp.float32)
    if rows.step is None:
        return rows.value
    value = rows.value.astype(jnp.float32).reshape(*rows.step.shape, -1)
    return (value * rows.step.astype(jnp.float32)[..., None]).reshape(rows.value.shape)


def narrow(value: Float[Array, "N ... W"], like: Rows) -> Rows:
    """Vectors as `like` stores them; rounding is to nearest."""
    if like.scale is None:
        return Rows(value)
    most = jnp.abs(value).max(-1, keepdims=True)
    value = value / jnp.where(most > 0, most, 1.0)
    kept = Rows(_bits(value)) if like.step is None else _integers(value, like.step.shape[-1])
    both = _inner(value, _unscaled(kept))
    scale = _inner(value, value) / jnp.where(both > 0, both, 1.0)
    return kept.replace(scale=most[..., 0] * scale)


def _inner(a: Float[Array, "N ... W"], b: Float[Array, "N ... W"]) -> Float[Array, "N ..."]:
    return jnp.einsum("...w,...w->...", a, b, precision=jax.lax.Precision.HIGHEST)


def _integers(value: Float[Array, "N ... W"], groups_n: int) -> Rows:
    """Vectors with entries up to 1 as integers up to 127, and each group's step up to 255."""
    grouped = value.reshape(*value.shape[:-1], groups_n, -1)
    entries = jnp.moveaxis(jnp.abs(grouped), -1, 0)
    step = jnp.ceil(functools.reduce(jnp.maximum, entries) * 255)  # faster than .max(-1) on CPUs
    integer = jnp.round(grouped * (127 * 255 / jnp.maximum(step, 1.0))[..., None])
    return Rows(integer.astype(jnp.int8).reshape(value.shape), step.astype(jnp.uint8))


def widen(rows: Rows) -> Float[Array, "C ... W"]:
    """What is stored, in float32."""
    value = _unscaled(rows)
    return value if rows.scale is None else value * rows.scale[..., None]


def turned(x: Float[Array, "N W"], like: Rows) -> Float[Array, "N W"]:
    """Keys to store, or what is multiplied with stored keys: as they are, or for 8 bits turned.

    The map is a Hadamard matrix on blocks of the largest power of two that divides W, at most 256.
    """
    width = x.shape[-1]
    n = min(width & -width, 256)
    if like.step is None or n == 1:
        return x
    turn = jnp.asarray(hadamard(n) / n**0.5, jnp.float32)
    blocks = jnp.matmul(x.reshape(*x.shape[:-1], -1, n), turn, precision=jax.lax.Precision.HIGHEST)
    return blocks.reshape(x.shape)


def _hosted(rows: Rows) -> bool:
    return jax.typeof(rows.value).memory_space == jax.memory.Space.Host


def to_host(rows: Rows) -> Rows:
    """The same rows in the host's memory, beside the accelerator's."""
    return jax.device_put(rows, jax.memory.Space.Host)


def where_kept(run: Callable[..., Rows], rows: Rows, *args: Array) -> Rows:
    """`run(rows, *args)` by the processor whose memory the rows are in; the result stays there."""
    if not _hosted(rows):
        return run(rows, *args)
    host = jax.memory.Space.Host
    there = compute_on(run, compute_type="device_host", out_memory_spaces=host)
    return there(rows, *jax.device_put(args, host))


def put(rows: Rows, index: Int[Array, " N"], value: Float[Array, "N ... W"]) -> Rows:
    """Write vectors at `index`; an index of C or more is dropped."""

    def write(rows: Rows, index: Array, new: Rows) -> Rows:
        return jax.tree.map(lambda leaf, x: leaf.at[index].set(x, mode="drop"), rows, new)

    return where_kept(write, rows, index, narrow(value, rows))


def pick(rows: Rows, index: Int[Array, " *N"]) -> Rows:
    """The rows at `index`, where they are kept."""
    return where_kept(lambda rows, index: jax.tree.map(lambda x: x[index], rows), rows, index)


def pad(rows: Rows, more: int) -> Rows:
    """The same rows and `more` zeros."""

    def padded(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1))

    return where_kept(lambda rows: jax.tree.map(padded, rows), rows)


def take(rows: Rows, index: Int[Array, " *N"]) -> Float[Array, "*N ... W"]:
    """The vectors at `index`, in float32; of rows on the host these alone are fetched."""
    return widen(jax.device_put(pick(rows, index), jax.memory.Space.Device))


def dot(y: Float[Array, "C W"], x: Float[Array, "B W"]) -> Float[Array, "B C"]:
    """x against y in full float32; with y first, a single x reads y at memory speed on CPUs."""
    return jnp.matmul(y, x.T, precision=jax.lax.Precision.HIGHEST).T


def products(rows: Rows, x: Float[Array, "B W"]) -> Float[Array, "B C"]:
    """x (`turned`) against every one of C vectors, summed in float32."""
    if rows.value.dtype == jnp.float32:
        return dot(rows.value, x)
    c = rows.value.shape[0]
    block = min(BLOCK, c)

    def put_block(i: Int[Array, ""], found: Float[Array, "C B"]) -> Float[Array, "C B"]:
        start = jnp.minimum(i * block, c - block)  # the last block may overlap the one before
        part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, block), rows)
        return jax.lax.dynamic_update_slice_in_dim(found, dot(widen(part), x).T, start, 0)

    return jax.lax.fori_loop(0, -(-c // block), put_block, jnp.zeros((c, x.shape[0]))).T
