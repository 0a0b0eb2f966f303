"""Stored rows: C vectors in float32, bfloat16 or 8 bits, written in place, read as float32.

A vector in bfloat16 or 8 bits has a float32 scale, chosen so that its dot product with the original
vector is exact: a similar query then sees no rounding error in that direction. bfloat16 is stored
as its bits, because XLA's CPU backend would convert a whole bfloat16 array to float32 before it
slices a row. In 8 bits, every GROUP_N entries also share a step, stored in 8 bits relative to the
vector's scale. 8-bit keys are rotated before they are stored (`rotate`): an orthogonal map changes
no dot product, spreads large entries over many, and makes the rounding errors of different keys
independent. Products with such rows are taken block by block, so that only one block at a time is
in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt16

from liveedit_jax.config import Precision
from liveedit_jax.types import StoredRows

try:
    from jax.experimental.compute_on import compute_on2 as compute_on  # its name in JAX 0.10
except ImportError:
    from jax.experimental.compute_on import compute_on  # type: ignore[assignment]

GROUP_N = 8  # entries that share a step
BLOCK = 512  # rows converted to float32 at a time: 8 MB at LLaVA's key width
DTYPES = {
    Precision.F32: jnp.float32,
    Precision.BF16: jnp.uint16,
    Precision.INT8: jnp.int8,
}


def _group(width: int) -> int:
    """Return the largest divisor of `width` up to GROUP_N."""
    return max(n for n in range(1, GROUP_N + 1) if width % n == 0)


def empty_rows(shape: tuple[int, ...], precision: Precision) -> StoredRows:
    """Create C zero vectors; `shape` is (C, ..., W)."""
    value = jnp.zeros(shape, DTYPES[precision])
    if precision == Precision.F32:
        return StoredRows(value)
    step = None
    if precision == Precision.INT8:
        step = jnp.zeros((*shape[:-1], shape[-1] // _group(shape[-1])), jnp.uint8)
    return StoredRows(value, step, jnp.zeros(shape[:-1]))


def _bits(value: Float[Array, "N ... W"]) -> UInt16[Array, "N ... W"]:
    return jax.lax.bitcast_convert_type(value.astype(jnp.bfloat16), jnp.uint16)


def _without_scale(rows: StoredRows) -> Float[Array, "C ... W"]:
    """Convert to float32 without multiplying by the scale."""
    if rows.value.dtype == jnp.uint16:
        return jax.lax.bitcast_convert_type(rows.value.astype(jnp.uint32) << 16, jnp.float32)
    if rows.step is None:
        return rows.value
    value = rows.value.astype(jnp.float32).reshape(*rows.step.shape, -1)
    return (value * rows.step.astype(jnp.float32)[..., None]).reshape(rows.value.shape)


def to_stored(value: Float[Array, "N ... W"], like: StoredRows) -> StoredRows:
    """Convert N vectors to the format of `like`, rounding to nearest."""
    if like.scale is None:
        return StoredRows(value)
    most = jnp.abs(value).max(-1, keepdims=True)
    most = jnp.where(most > 0, most, 1.0)
    if like.step is None:  # what is in bfloat16 already stays as it is, with a scale of 1
        kept = StoredRows(_bits(value))
        power = jnp.ldexp(1.0, jnp.frexp(most)[1])  # divides exactly, however it is compiled
        return kept.replace(scale=_exact_scale(value / power, _without_scale(kept) / power))
    kept = _integers(value / most, like.step.shape[-1])
    scale = _exact_scale(value / most, _without_scale(kept))
    return kept.replace(scale=most[..., 0] * scale)


def _exact_scale(
    value: Float[Array, "N ... W"], kept: Float[Array, "N ... W"]
) -> Float[Array, "N ..."]:
    """Compute the scale with which what is kept of a vector has its exact product with it."""
    both = _inner(value, kept)
    return jnp.where(both > 0, _inner(value, value) / jnp.where(both > 0, both, 1.0), 1.0)


def _inner(a: Float[Array, "N ... W"], b: Float[Array, "N ... W"]) -> Float[Array, "N ..."]:
    return jnp.einsum("...w,...w->...", a, b, precision=jax.lax.Precision.HIGHEST)


def _integers(value: Float[Array, "N ... W"], groups_n: int) -> StoredRows:
    """Convert vectors with entries up to 1 to integers up to 127 and group steps up to 255."""
    grouped = value.reshape(*value.shape[:-1], groups_n, -1)
    entries = jnp.moveaxis(jnp.abs(grouped), -1, 0)
    step = jnp.ceil(functools.reduce(jnp.maximum, entries) * 255)  # faster than .max(-1) on CPUs
    integer = jnp.round(grouped * (127 * 255 / jnp.maximum(step, 1.0))[..., None])
    return StoredRows(integer.astype(jnp.int8).reshape(value.shape), step.astype(jnp.uint8))


def from_stored(value: np.ndarray) -> StoredRows:
    """Take C vectors as they are, float32 or bfloat16 [C, ..., W], without copying on a CPU."""
    if value.dtype == np.float32:
        return StoredRows(jax.device_put(value, may_alias=True))
    bits = jax.device_put(value.view(np.uint16), may_alias=True)
    return StoredRows(bits, scale=jnp.ones(value.shape[:-1]))


def to_float32(rows: StoredRows) -> Float[Array, "C ... W"]:
    """Convert stored vectors to float32."""
    value = _without_scale(rows)
    return value if rows.scale is None else value * rows.scale[..., None]


def _hadamard(n: int) -> np.ndarray:
    """Make Sylvester's Hadamard matrix; `scipy.linalg` has it too, and takes long to import."""
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def rotate(x: Float[Array, "N W"], like: StoredRows) -> Float[Array, "N W"]:
    """Rotate vectors if `like` is in 8 bits: keys before storing, and queries that meet them.

    The rotation is an orthogonal Hadamard matrix on blocks of the largest power of two that divides
    W, at most 256.
    """
    width = x.shape[-1]
    n = min(width & -width, 256)
    if like.step is None or n == 1:
        return x
    turn = jnp.asarray(_hadamard(n) / n**0.5, jnp.float32)
    blocks = jnp.matmul(x.reshape(*x.shape[:-1], -1, n), turn, precision=jax.lax.Precision.HIGHEST)
    return blocks.reshape(x.shape)


def _is_on_host(rows: StoredRows) -> bool:
    return jax.typeof(rows.value).memory_space == jax.memory.Space.Host


def to_host(rows: StoredRows) -> StoredRows:
    """Move rows to host memory, where the accelerator can still reach them."""
    return jax.device_put(rows, jax.memory.Space.Host)


def run_where_stored(
    run: Callable[..., StoredRows], rows: StoredRows, *args: Array | StoredRows
) -> StoredRows:
    """Call `run(rows, *args)` on the processor that holds the rows; the result stays there."""
    if not _is_on_host(rows):
        return run(rows, *args)
    host = jax.memory.Space.Host
    there = compute_on(run, compute_type="device_host", out_memory_spaces=host)
    return there(rows, *jax.device_put(args, host))


def put(rows: StoredRows, index: Int[Array, " N"], value: Float[Array, "N ... W"]) -> StoredRows:
    """Write N vectors at rows `index`; those with an index of C or more are dropped."""

    def write(rows: StoredRows, index: Array, new: StoredRows) -> StoredRows:
        return jax.tree.map(lambda leaf, x: leaf.at[index].set(x, mode="drop"), rows, new)

    return run_where_stored(write, rows, index, to_stored(value, rows))


def pick(rows: StoredRows, index: Int[Array, " *N"]) -> StoredRows:
    """Return the rows at `index` in their format, on the processor that holds them."""
    return run_where_stored(lambda rows, index: jax.tree.map(lambda x: x[index], rows), rows, index)


def pad(rows: StoredRows, more: int) -> StoredRows:
    """Append `more` rows of zeros."""

    def pad_leaf(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1))

    return run_where_stored(lambda rows: jax.tree.map(pad_leaf, rows), rows)


def take(rows: StoredRows, index: Int[Array, " *N"]) -> Float[Array, "*N ... W"]:
    """Return the vectors at `index` in float32; of rows in host memory, only these are fetched."""
    return to_float32(jax.device_put(pick(rows, index), jax.memory.Space.Device))


def dot(y: Float[Array, "C W"], x: Float[Array, "B W"]) -> Float[Array, "B C"]:
    """Compute the dot products of every x with every y, in full float32.

    y comes first in the product: on CPUs, a single x is then multiplied at memory speed.
    """
    return jnp.matmul(y, x.T, precision=jax.lax.Precision.HIGHEST).T


def products(rows: StoredRows, x: Float[Array, "B W"]) -> Float[Array, "B C"]:
    """Compute the dot products of every x, rotated, with C stored vectors, in float32."""
    if rows.value.dtype == jnp.float32:
        return dot(rows.value, x)
    c = rows.value.shape[0]
    block = min(BLOCK, c)

    def put_block(i: Int[Array, ""], found: Float[Array, "C B"]) -> Float[Array, "C B"]:
        start = jnp.minimum(i * block, c - block)  # the last block may overlap the one before
        part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, block), rows)
        return jax.lax.dynamic_update_slice_in_dim(found, dot(to_float32(part), x).T, start, 0)

    return jax.lax.fori_loop(0, -(-c // block), put_block, jnp.zeros((c, x.shape[0]))).T
