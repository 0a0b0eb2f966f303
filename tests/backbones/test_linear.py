"""Linear layers in one dtype, and with kernels narrower than what they multiply."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbones.linear import Linear, product


def rounded(x):
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


@pytest.fixture
def factors():
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (5, 3, 8)), jax.random.normal(keys[1], (8, 6))


@pytest.mark.parametrize("use_bias", [True, False])
def test_one_dtype_is_flax_dense(factors, use_bias):
    x, _ = factors
    ours, theirs = Linear(6, use_bias), nn.Dense(6, use_bias=use_bias)
    params = theirs.init(jax.random.key(1), x)
    assert jax.tree.structure(ours.init(jax.random.key(1), x)) == jax.tree.structure(params)
    np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), rtol=1e-6)


def test_narrow_kernels_round_the_factors_and_sum_in_float32(factors):
    x, kernel = factors
    y = product(x, kernel.astype(jnp.bfloat16))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, rounded(x) @ rounded(kernel), rtol=1e-5, atol=1e-6)


def test_narrow_kernels_round_gradients_likewise(factors):
    x, kernel = factors
    g = jax.random.normal(jax.random.key(2), (5, 3, 6))
    _, back = jax.vjp(product, x, kernel.astype(jnp.bfloat16))
    to_x, to_kernel = back(g)
    assert (to_x.dtype, to_kernel.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(to_x, rounded(g) @ rounded(kernel).T, rtol=1e-5, atol=1e-5)
    exact = np.einsum("abd,abw->dw", rounded(x), rounded(g))
    np.testing.assert_allclose(to_kernel.astype(jnp.float32), exact, rtol=1e-2, atol=1e-2)
