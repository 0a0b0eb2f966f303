"""Stored rows: C vectors in float32, bfloat16 or 8 bits, written in place, read as float32.

In 8 bits every vector has a scale of its own: its largest entry is 127. A product with narrow rows
is taken in blocks, so that what is widened is one block and not the repository.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.compute_on import compute_on
from jaxtyping import Array, Float, Int

from liveedit_jax.config import Precision
from liveedit_jax.types import Rows

BLOCK = 512  # rows widened at a time: 8 MB at LLaVA's key width
DTYPES = {
    Precision.F32: jnp.float32,
    Precision.BF16: jnp.bfloat16,
    Precision.INT8: jnp.int8,
}


def empty_rows(shape: tuple[int, ...], precision: Precision) -> Rows:
    """Zeros of `shape` [C, ..., W]."""
    scale = jnp.zeros(shape[:-1]) if precision == Precision.INT8 else None
    return Rows(jnp.zeros(shape, DTYPES[precision]), scale)


def narrow(value: Float[Array, "N ... W"], like: Rows) -> Rows:
    """Vectors as `like` stores them; rounding is to nearest."""
    if like.scale is None:
        return Rows(value.astype(like.value.dtype), None)
    scale = jnp.abs(value).max(-1) / 127
    integer = jnp.round(value / jnp.where(scale > 0, scale, 1.0)[..., None])
    return Rows(integer.astype(jnp.int8), scale)


def widen(rows: Rows) -> Float[Array, "C ... W"]:
    """What is stored, in float32."""
    wide = rows.value.astype(jnp.float32)
    return wide if rows.scale is None else wide * rows.scale[..., None]


def _hosted(rows: Rows) -> bool:
    return jax.typeof(rows.value).memory_space == jax.memory.Space.Host


def to_host(rows: Rows) -> Rows:
    """The same rows in the host's memory, beside the accelerator's."""
    return jax.device_put(rows, jax.memory.Space.Host)


def where_kept(run: Callable[..., Rows], rows: Rows, *args: Array) -> Rows:
    """`run(rows, *args)` by the processor whose memory the rows are in; the result stays there."""
    if not _hosted(rows):
        return run(rows, *args)
    args = jax.device_put(args, jax.memory.Space.Host)
    return compute_on("device_host")(jax.jit(run))(rows, *args)


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
    """x against every one of C vectors, summed in float32."""
    if rows.value.dtype == jnp.float32:
        return dot(rows.value, x)
    c = rows.value.shape[0]
    block = min(BLOCK, c)

    def put_block(i: Int[Array, ""], found: Float[Array, "C B"]) -> Float[Array, "C B"]:
        start = jnp.minimum(i * block, c - block)  # the last block may overlap the one before
        part = jax.lax.dynamic_slice_in_dim(rows.value, start, block)
        new = dot(part.astype(jnp.float32), x).T
        return jax.lax.dynamic_update_slice_in_dim(found, new, start, 0)

    found = jax.lax.fori_loop(0, -(-c // block), put_block, jnp.zeros((c, x.shape[0]))).T
    return found if rows.scale is None else found * rows.scale
