"""Narrow storage: what is kept, how far it is from what was given, and products with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import Precision
from liveedit_jax.editor import rows

# Half of it is the entries' rounding, and half at most what makes their own product exact.
RELATIVE = {Precision.F32: 0.0, Precision.BF16: 2**-8, Precision.INT8: 1 / 127}


@pytest.fixture(params=list(Precision))
def precision(request):
    return request.param


def stored(precision, c=1300, w=6):
    value = jax.random.normal(jax.random.key(0), (c, w)) * jnp.arange(1, c + 1)[:, None]
    empty = rows.empty_rows((c, w), precision)
    return value, jax.jit(rows.put)(empty, jnp.arange(c), value)


def test_what_is_kept_is_within_the_rounding_of_its_largest_entry(precision):
    value, kept = stored(precision)
    error = np.abs(np.asarray(rows.to_float32(kept)) - np.asarray(value))
    most = np.abs(np.asarray(value)).max(-1, keepdims=True)
    assert (error <= RELATIVE[precision] * most * 1.001).all()
    if precision == Precision.INT8:
        assert kept.value.dtype == jnp.int8 and kept.step.shape == (1300, 1)


def test_products_are_those_of_what_is_kept_for_any_number_of_rows(precision):
    for c in (1, 511, 512, 513, 1300):
        _, kept = stored(precision, c)
        for b in (1, 5):
            x = jax.random.normal(jax.random.key(1), (b, 6))
            want = np.asarray(x, np.float64) @ np.asarray(rows.to_float32(kept), np.float64).T
            found = jax.jit(rows.products)(kept, x)
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_rows_are_taken_as_they_were_put_and_zero_stays_zero(precision):
    _, kept = stored(precision)
    slot = jnp.asarray([[3, 0], [1299, 3]])
    np.testing.assert_array_equal(rows.take(kept, slot), rows.to_float32(kept)[slot])
    kept = rows.put(kept, jnp.asarray([2, 1300]), jnp.zeros((2, 6)))  # the second is outside
    assert not np.asarray(rows.take(kept, jnp.asarray([2]))).any()
    np.testing.assert_array_equal(
        rows.to_float32(kept)[1299], rows.to_float32(stored(precision)[1])[1299]
    )


@pytest.mark.parametrize("width", [1, 6, 64, 768])
def test_turning_changes_no_product_and_no_length(width):
    x, y = jax.random.normal(jax.random.key(0), (2, 5, width))
    like = rows.empty_rows((2, width), Precision.INT8)
    a, b = rows.rotate(x, like), rows.rotate(y, like)
    np.testing.assert_allclose(a @ b.T, x @ y.T, atol=1e-4)
    assert rows.rotate(x, rows.empty_rows((2, width), Precision.BF16)) is x
    if width == 768:
        one = rows.rotate(jnp.eye(768)[:1], like)
        assert float(jnp.abs(one).max()) == pytest.approx(1 / 16)  # spread over a block of 256


def test_a_vectors_product_with_itself_is_exact(precision):
    """So is what its rounding shares with every vector like it."""
    value = jax.random.normal(jax.random.key(0), (50, 64)) + 1
    kept = rows.to_stored(value, rows.empty_rows((1, 64), precision))
    own = (rows.to_float32(kept) * value).sum(-1)
    np.testing.assert_allclose(own, (value * value).sum(-1), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_in_its_format_already_stays_to_the_bit(dtype):
    value = np.random.default_rng(0).normal(size=(50, 64)) * 10.0 ** np.arange(-25, 25)[:, None]
    value = np.asarray(value.astype(dtype))
    like = rows.empty_rows((1, 64), Precision(dtype))
    put = rows.to_stored(jnp.asarray(value, jnp.float32), like)
    for kept in (rows.from_stored(value), put):
        np.testing.assert_array_equal(rows.to_float32(kept), value.astype(np.float32))


def test_groups_of_a_vector_have_steps_of_their_own():
    value = jnp.concatenate([jnp.full((1, 8), 1000.0), jnp.linspace(4.0, 5.0, 8)[None]], 1)
    kept = rows.to_stored(value, rows.empty_rows((1, 16), Precision.INT8))
    assert kept.step.shape == (1, 2) and int(kept.step[0, 0]) == 255
    np.testing.assert_allclose(rows.to_float32(kept), value, rtol=0.01)


def test_extreme_vectors_are_kept_or_zero_but_never_nan(precision):
    """Entries of a thousandth of the largest are within the rounding of the largest."""
    for value in (0.0, 1e-30, 1e15):
        given = jnp.full((1, 8), value).at[0, 0].multiply(1e-3)
        kept = rows.to_float32(rows.to_stored(given, rows.empty_rows((1, 8), precision)))
        np.testing.assert_allclose(kept, given, atol=value / 100)


@pytest.mark.parametrize("run", [rows.products, rows.take])
@pytest.mark.parametrize("narrow", [Precision.BF16, Precision.INT8])
def test_narrow_rows_are_never_widened_as_a_whole(narrow, run):
    c, w = 5000, 16
    arg = jnp.zeros((3, w)) if run is rows.products else jnp.arange(3)
    program = jax.jit(run).lower(rows.empty_rows((c, w), narrow), arg).compile().as_text()
    assert f"[{c},{w}]" in program and f"f32[{c},{w}]" not in program
