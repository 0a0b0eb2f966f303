"""Norms that start from statistics make every feature of what they read comparable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import EditorConfig, EditorTrainConfig
from liveedit_jax.editor.attention import layer_norm, normalise
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.training.addressing import Edits
from liveedit_jax.training.statistics import standardised, start_norms
from liveedit_jax.types import Role

CFG = EditorConfig(module_width=16, heads_n=2, rank=2)


@pytest.fixture
def states():
    """States of 5 edits whose features differ in mean and size by orders, and their roles."""
    keys = jax.random.split(jax.random.key(0), 3)
    size = jnp.exp(jax.random.normal(keys[0], (8,)))
    states = jax.random.normal(keys[1], (5, 9, 8)) * size + 3 * jax.random.normal(keys[2], (8,))
    role = jnp.tile(jnp.array([1, 2, 2, 3, 3, 3, 4, 4, 0], jnp.int8), (5, 1))
    return states, role


def test_each_norm_standardises_what_it_reads(states):
    hidden, role = states
    edits = Edits(normalise(hidden, CFG.norm_eps), role.astype(jnp.int32), role)
    params = init_params(jax.random.key(1), CFG, 8, 2)
    started = start_norms(params, edits)
    seen = standardised(edits, started["norm"])

    text = (role == Role.PROMPT) | (role == Role.ANSWER)
    for norm, mask in (
        (started["norm"], text),
        (started["up"]["norm"], text),
        (started["down"]["norm"], text),
        (started["edit"]["norm2"], role == Role.PROMPT),
        (started["input"]["norm2"], role == Role.PROMPT),
    ):
        read = np.asarray(layer_norm(norm, hidden, CFG.norm_eps))[np.asarray(mask)]
        np.testing.assert_allclose(read.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(read.std(0), 1, atol=1e-3)
    generators = layer_norm(started["norm"], hidden, CFG.norm_eps)
    np.testing.assert_allclose(seen.states, generators, atol=1e-4)
    before = layer_norm(params["edit"]["norm2"], hidden, CFG.norm_eps)[role == Role.PROMPT]
    assert np.abs(before.std(0) - 1).max() > 0.5  # there was something to take away


def test_all_but_the_norms_of_text_stays(states):
    hidden, role = states
    edits = Edits(normalise(hidden, CFG.norm_eps), role.astype(jnp.int32), role)
    params = init_params(jax.random.key(1), CFG, 8, 2)
    started = start_norms(params, edits)
    before = dict(jax.tree_util.tree_leaves_with_path(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(started):
        name = jax.tree_util.keystr(path)
        if "norm" not in name or "norm1" in name:  # norm1 reads images
            assert leaf is before[path]


def test_standardising_is_part_of_a_fitted_start():
    with pytest.raises(ValueError, match="needs gate_gain"):
        EditorTrainConfig(standardise=True)
