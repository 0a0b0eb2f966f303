"""Attention in blocks is attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbones import attention


@pytest.mark.parametrize("block", [4, 7, 13, 1024])
def test_blocks_of_queries_change_nothing(monkeypatch, block):
    keys = jax.random.split(jax.random.key(0), 4)
    query = jax.random.normal(keys[0], (2, 13, 6, 4))
    key, value = (jax.random.normal(k, (2, 17, 3, 4)) for k in keys[1:3])
    mask = jax.random.bernoulli(keys[3], 0.7, (2, 13, 17)).at[:, :, 0].set(True)
    score = jnp.einsum("btnc,bsnc->bnts", query, jnp.repeat(key, 2, 2)) / 2
    weight = jax.nn.softmax(jnp.where(mask[:, None], score, -jnp.inf), -1)
    want = jnp.einsum("bnts,bsnc->btnc", weight, jnp.repeat(value, 2, 2))
    monkeypatch.setattr(attention, "BLOCK", block)

    def run(query, key, value):
        return attention.attend(query, key, value, mask)

    np.testing.assert_allclose(jax.jit(run)(query, key, value), want, atol=1e-6)
    grads = jax.grad(lambda *x: (run(*x) ** 2).sum(), argnums=(0, 1, 2))(query, key, value)
    monkeypatch.setattr(attention, "BLOCK", 1024)
    whole = jax.grad(lambda *x: (run(*x) ** 2).sum(), argnums=(0, 1, 2))(query, key, value)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, whole)
