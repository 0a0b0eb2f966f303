"""Training an editor from Python: on records, into a model that opens again."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import liveedit_jax
from liveedit_jax.config import EditorTrainConfig
from liveedit_jax.data import edit_stream
from liveedit_jax.session.training import default_recipe


def test_a_trained_editor_is_the_one_that_is_saved(model_folder, tmp_path):
    model = liveedit_jax.open_model(model_folder)
    before = jax.tree.map(np.asarray, model.parts.editor)
    records = list(edit_stream("editor_train", 0, 4, image_size=60))
    trained = liveedit_jax.train_editor(
        model, records, 2, out=tmp_path / "run", save_to=tmp_path / "mine"
    )
    again = liveedit_jax.open_model(tmp_path / "mine")
    assert again.parts.editor_sha256 == trained.parts.editor_sha256
    assert trained.parts.editor_sha256 != model.parts.editor_sha256
    jax.tree.map(np.testing.assert_array_equal, again.parts.editor, trained.parts.editor)
    jax.tree.map(np.testing.assert_array_equal, model.parts.editor, before)  # it stays as it was
    with pytest.raises(ValueError, match="is there already"):
        liveedit_jax.train_editor(model, records, 2, save_to=tmp_path / "mine")
    resumed = liveedit_jax.train_editor(model, records, 2, out=tmp_path / "run")
    assert resumed.parts.editor_sha256 == trained.parts.editor_sha256


def test_records_that_cannot_be_trained_on_are_refused(model_folder):
    records = list(edit_stream("editor_train", 0, 2, image_size=60))
    with pytest.raises(ValueError, match="1 records: training compares records"):
        liveedit_jax.train_editor(model_folder, records[:1])
    with pytest.raises(ValueError, match="records of evqa, mojiedit"):
        liveedit_jax.train_editor(model_folder, [records[0], replace(records[1], dataset="evqa")])


def test_a_recipe_fits_few_records_and_short_runs():
    recipe = EditorTrainConfig(
        batch_n=16, routing_n=32, warmup_steps=200, cosine=True, gate_gain=0.25, standardise=True
    )
    short = default_recipe(recipe, 10, 20, trained=True)
    assert (short.batch_n, short.routing_n, short.steps_n, short.warmup_steps) == (10, 10, 20, 10)
    assert short.learning_rate == pytest.approx(0.1 * recipe.learning_rate)
    assert short.gate_gain is None and not short.standardise
    assert default_recipe(recipe, 100, None, trained=False).learning_rate == recipe.learning_rate
