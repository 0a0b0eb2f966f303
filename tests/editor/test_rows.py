"""Narrow storage: what is kept, how far it is from what was given, and products with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import Precision
from liveedit_jax.editor import rows

# In 8 bits half of it is the entries' rounding, half that of their scale.
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
    error = np.abs(np.asarray(rows.widen(kept)) - np.asarray(value))
    most = np.abs(np.asarray(value)).max(-1, keepdims=True)
    assert (error <= RELATIVE[precision] * most * 1.001).all()
    if precision == Precision.INT8:
        assert kept.value.dtype == jnp.int8 and kept.scale.shape == (1300, 1)


def test_products_are_those_of_what_is_kept_for_any_number_of_rows(precision):
    for c in (1, 511, 512, 513, 1300):
        _, kept = stored(precision, c)
        for b in (1, 5):
            x = jax.random.normal(jax.random.key(1), (b, 6))
            want = np.asarray(x, np.float64) @ np.asarray(rows.widen(kept), np.float64).T
            found = jax.jit(rows.products)(kept, x)
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_rows_are_taken_as_they_were_put_and_zero_stays_zero(precision):
    _, kept = stored(precision)
    slot = jnp.asarray([[3, 0], [1299, 3]])
    np.testing.assert_array_equal(rows.take(kept, slot), rows.widen(kept)[slot])
    kept = rows.put(kept, jnp.asarray([2, 1300]), jnp.zeros((2, 6)))  # the second is outside
    assert not np.asarray(rows.take(kept, jnp.asarray([2]))).any()
    np.testing.assert_array_equal(rows.widen(kept)[1299], rows.widen(stored(precision)[1])[1299])


@pytest.mark.parametrize("width", [1, 6, 64, 768])
def test_turning_changes_no_product_and_no_length(width):
    x, y = jax.random.normal(jax.random.key(0), (2, 5, width))
    like = rows.empty_rows((2, width), Precision.INT8)
    a, b = rows.turned(x, like), rows.turned(y, like)
    np.testing.assert_allclose(a @ b.T, x @ y.T, atol=1e-4)
    assert rows.turned(x, rows.empty_rows((2, width), Precision.BF16)) is x
    if width == 768:
        one = rows.turned(jnp.eye(768)[:1], like)
        assert float(jnp.abs(one).max()) == pytest.approx(1 / 16)  # spread over a block of 256


def test_groups_of_a_vector_have_scales_of_their_own():
    value = jnp.concatenate([jnp.full((1, 16), 1000.0), jnp.linspace(0.01, 0.02, 16)[None]], 1)
    kept = rows.narrow(value, rows.empty_rows((1, 32), Precision.INT8))
    assert kept.scale.shape == (1, 2)
    np.testing.assert_allclose(rows.widen(kept), value, rtol=0.01)
