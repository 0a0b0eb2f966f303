"""Training from states on disk is training; damaged and foreign states are refused."""

import jax
import numpy as np
import pytest
from small_model import EDITOR, SMALL, small_weights

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditMixture, EditorTrainConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.training import editor as training
from liveedit_jax.training.states import StateCache

BACKBONE = Backbone(SMALL)


def test_steps_from_disk_are_the_steps(tokenizer, tmp_path):
    recipe = EditorTrainConfig(batch_n=2, learning_rate=1e-2)
    data = EditingData(tokenizer, SMALL, recipe, EditMixture(lengths=((60, 1.0),)))
    weights = small_weights()
    shape = (2 * len(data.entities), SMALL.vision_n, SMALL.width)
    pictures = jax.random.normal(jax.random.key(2), shape)
    made = []

    def states_of(batch):
        made.append(batch)
        features, lower = training.row_features(pictures, batch), training.lower_from_features
        return training.lower_states(BACKBONE, recipe, lower, weights, features, batch)

    def run(steps):
        state = training.init_state(BACKBONE, EDITOR, recipe, jax.random.key(1))
        read = StateCache(tmp_path / "states", 2, {"seed": 0}).reading(data.batch_at, states_of)
        for i in steps:
            hidden, batch = read(i)
            known = BACKBONE, EDITOR, recipe, training.stored_states, weights, hidden
            state, scalars = training.jitted_editor_step(*known, state, batch)
        return state, scalars

    found, scalars = run(range(3))
    assert len(made) == 2  # the third step's batch is the first's
    again, _ = run(range(3))
    assert len(made) == 2
    jax.tree.map(np.testing.assert_array_equal, again, found)
    state = training.init_state(BACKBONE, EDITOR, recipe, jax.random.key(1))
    for i in (0, 1, 0):
        batch = data.batch_at(i)
        features = training.row_features(pictures, batch)
        known = BACKBONE, EDITOR, recipe, training.lower_from_features, weights, features
        state, wanted = training.jitted_editor_step(*known, state, batch)
    for name, value in wanted.items():
        assert float(scalars[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name


def test_half_width_states_come_back_as_they_were(tmp_path):
    states = jax.random.normal(jax.random.key(0), (4, 3, 8)).astype(jax.numpy.bfloat16)
    read = StateCache(tmp_path, 1, {}).reading(lambda i: i, lambda batch: states)
    assert read(0)[0].dtype == states.dtype
    np.testing.assert_array_equal(read(5)[0], states)


def test_foreign_and_damaged_states_are_refused(tmp_path):
    cache = StateCache(tmp_path, 3, {"edit_layer": 2, "seed": 0})
    read = cache.reading(lambda i: i, lambda batch: np.ones((2, 3)))
    with pytest.raises(ValueError, match="edit_layer is 2, not 3.: use an empty folder"):
        StateCache(tmp_path, 3, {"edit_layer": 3, "seed": 0})
    file = tmp_path / "0.0.npy"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match="0.0.npy is damaged .*: remove it"):
        read(0)
    file.unlink()
    read = cache.reading(lambda i: i, lambda batch: np.ones((2, 3)))
    np.testing.assert_array_equal(read(0)[0], np.ones((2, 3)))
    with pytest.raises(ValueError, match="batches_n=0: 1 or more"):
        StateCache(tmp_path, 0, {})
