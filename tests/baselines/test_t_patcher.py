"""Transformer-Patcher: neurons by hand, one for each token, active where they should be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.baselines.layer import mlp_input
from liveedit_jax.baselines.t_patcher import Neurons, TPatcher, activation_penalty, apply_neurons
from liveedit_jax.editors import split_at_layer

EDITOR = TPatcher(tokens_n=4, memories_n=8, steps_n=40, silent=-3.0, apart=3.0)


@pytest.fixture(scope="module")
def edited(micro):
    backbone, weights = split_at_layer(micro.backbone, micro.params["backbone"], EDITOR.layer)
    params = {"backbone": weights, "editor": None}
    features = backbone.vision_features(weights, micro.batch.image)
    known = EDITOR.encode(backbone, params, micro.batch, features)
    edit = jax.jit(partial(EDITOR.edit, backbone, params))
    one = edit(EDITOR.init(backbone, params, 2), known, micro.batch)
    return backbone, params, known, one, edit(one, known, micro.batch)


def test_neurons_and_their_losses_by_hand():
    neurons = Neurons(jnp.eye(2), jnp.asarray([0.0, -3.0]), jnp.asarray([[1.0, 2], [3, 4]]))
    np.testing.assert_allclose(apply_neurons(neurons, jnp.asarray([[2.0, 2.5]])), [[2, 4]])
    np.testing.assert_allclose(apply_neurons(neurons, jnp.asarray([[-1.0, 4.0]])), [[3, 4]])
    x, counted = jnp.asarray([[1.0, -1.0], [2.0, 9.0]]), jnp.asarray([[True, True], [True, False]])
    np.testing.assert_allclose(activation_penalty(x, counted), (np.e + np.e**2) / 2, rtol=1e-6)
    assert activation_penalty(-x, counted & (x > 0)) == 0


def test_an_edit_adds_a_neuron_for_each_of_its_tokens_and_leaves_the_rest(micro, edited):
    backbone, params, known, one, two = edited
    x = mlp_input(backbone, params["backbone"], known.states)[0]
    assert (int(one.used_n), int(two.used_n)) == (3, 6)  # two tokens and EOS
    for state, used_n in ((one, 3), (two, 6)):
        used = np.asarray(state.neurons.value != 0).any(1)
        np.testing.assert_array_equal(used, np.arange(8) < used_n)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:3], b[:3]), one.neurons, two.neurons)
    np.testing.assert_allclose(two.memory[:6], np.concatenate([x[6:9], x[6:9]]), rtol=1e-6)
    given = np.asarray(x @ one.neurons.key[:3].T + one.neurons.bias[:3])
    assert (np.diag(given[6:9]) > 0).all()
    assert (given[:6] < np.diag(given[6:9])).all()  # the row's earlier tokens


def test_only_the_last_layer_is_patched(micro, edited):
    backbone, params, known, one, _ = edited
    whole = EDITOR.logits(backbone, params, one, known, micro.batch, None)
    some = EDITOR.logits(backbone, params, one, known, micro.batch, micro.at)
    np.testing.assert_allclose(some, whole[:, 6:9], atol=1e-5)
    assert (some[0].argmax(-1) == jnp.asarray([9, 10, 2])).all()
    with pytest.raises(ValueError, match="layer=-1"):
        EDITOR.init(micro.backbone, micro.params, 2)
