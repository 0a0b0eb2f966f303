"""Training rows of every kind of backbone, and steps of several batches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_model import EDITOR, SMALL, small_weights

from liveedit_jax.backbone_config import AnyresConfig, ResizeMode
from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditMixture, EditorTrainConfig, LengthBudget
from liveedit_jax.data.editing import EditingBatch, EditingData
from liveedit_jax.data.facts import SOURCES
from liveedit_jax.data.images import drawing_png, preprocess
from liveedit_jax.data.tokenise import Example, tokenise
from liveedit_jax.training import editor as training
from liveedit_jax.types import Role

IMAGE_FIRST = replace(SMALL, image_first=True, after_image="", fit=ResizeMode.SQUASH)
TILED = replace(SMALL, tiles=AnyresConfig(grids=((1, 2), (2, 2))))


@pytest.mark.parametrize("cfg", [SMALL, IMAGE_FIRST, TILED])
def test_training_rows_are_those_that_edits_are_made_of(tokenizer, cfg):
    data = EditingData(tokenizer, cfg, EditorTrainConfig(batch_n=3), EditMixture())
    batch = data.batch_at(0)
    assert data.picture_n == (5 * 25 + 10 if cfg.tiles else 25)  # 2 x 2, and a newline a line
    assert batch.token.shape[-1] % 64 == 0 and (batch.place is None) == (not cfg.tiles)
    for kind in range(4):
        for j in range(3):
            token, role = batch.token[kind, j], batch.role[kind, j]
            entity, source = divmod(int(batch.picture[kind, j]), 2)
            entity, source = data.entities[entity], SOURCES[source]
            after = len(tokenizer.encode(cfg.after_image)) if cfg.after_image else 0
            prompt = tokenizer.decode(token[role == Role.PROMPT][after + cfg.image_first :])
            answer = tokenizer.decode(token[role == Role.ANSWER])
            image = preprocess(cfg, drawing_png(entity, source, cfg.drawing_size))
            np.testing.assert_array_equal(data.picture(batch.picture[kind, j]), image.pixels)
            example = Example(prompt, answer, *image)
            row = tokenise(tokenizer, cfg, [example], LengthBudget())
            n = int((role != Role.PAD).sum())
            assert n == (row.role != Role.PAD).sum()
            np.testing.assert_array_equal(token[:n], row.token[0, :n])
            np.testing.assert_array_equal(role[:n], row.role[0, :n])
            if cfg.tiles:
                np.testing.assert_array_equal(batch.place[kind, j, :n], row.place[0, :n])


def test_what_no_sample_fits_into_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr("liveedit_jax.data.editing.SAMPLE_TRIES_N", 50)
    short = EditMixture(lengths=((SMALL.vision_n + 2, 1.0),))
    with pytest.raises(ValueError, match="25 of them a picture's: change EditMixture.lengths"):
        EditingData(tokenizer, SMALL, EditorTrainConfig(), short).batch_at(0)
    data = EditingData(tokenizer, SMALL, EditorTrainConfig(answers_n=1), EditMixture())
    with pytest.raises(ValueError, match="answers_n"):
        data.batch_at(0)
    with pytest.raises(ValueError, match="accumulate_n=0: 1 or more"):
        EditorTrainConfig(accumulate_n=0)
    with pytest.raises(ValueError, match="warmup_steps=9 leaves none of steps_n=9"):
        EditorTrainConfig(cosine=True, warmup_steps=9, steps_n=9)


def shown(data, batch):
    pixels = [[data.picture(i) for i in row] for row in batch.picture[[0, 2, 3]].T]
    return np.asarray(pixels)


def parts_of(recipe, batch) -> list[EditingBatch]:
    return [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(recipe.accumulate_n)]


def step_of(cfg, recipe, data, state, batch):
    backbone = Backbone(cfg)
    weights, images = jax.jit(backbone.init)(jax.random.key(0)), shown(data, batch)

    def run(images, state, batch):
        known = backbone, EDITOR, recipe, training.lower_from_images, weights, images
        return training.editor_step(*known, state, batch)

    return jax.jit(run)(images, state, batch)


def test_accumulated_steps_follow_the_mean_gradient(tokenizer):
    recipe = EditorTrainConfig(batch_n=2, accumulate_n=3, learning_rate=1e-2)
    backbone, data = Backbone(SMALL), EditingData(tokenizer, SMALL, recipe, EditMixture())
    weights = small_weights()
    state = training.init_state(backbone, EDITOR, recipe, jax.random.key(1))
    batches = data.batch_at(4)
    assert batches.token.shape[:3] == (3, 4, 2)
    np.testing.assert_array_equal(batches.token[1], data.batch(13).token)
    used = np.unique(batches.picture)
    shown_ones = np.stack([data.picture(i) for i in used])
    pictures = jnp.zeros((used.max() + 1, SMALL.vision_n, SMALL.width))
    pictures = pictures.at[used].set(jax.jit(backbone.vision_features)(weights, shown_ones))

    @jax.jit
    def gradient(hidden, part, i):
        known = backbone, EDITOR, recipe, weights, hidden, state
        return training.editor_gradient(*known, part, i)[0]

    features = training.row_features(pictures, batches)
    known = backbone, recipe, training.lower_from_features, weights, features
    hidden = training.lower_states(*known, batches)
    parts = parts_of(recipe, batches)
    grads = [gradient(hidden[i], part, i) for i, part in enumerate(parts)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *grads)
    norm = float(jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(mean))))
    by_table = jax.tree.map(jnp.copy, state)
    known = backbone, EDITOR, recipe, training.lower_from_features, weights, features
    by_table, scalars = training.jitted_editor_step(*known, by_table, batches)
    assert float(scalars["gradient_norm"]) == pytest.approx(norm, rel=1e-5)
    moment = optax.tree_utils.tree_get(by_table.optimizer, "mu")  # a tenth of the gradient
    for found, wanted in zip(jax.tree.leaves(moment), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(found, 0.1 * wanted, atol=1e-6 * norm)
    images = np.stack([shown(data, part) for part in parts])
    known = backbone, recipe, training.lower_from_images, weights, images
    same = training.lower_states(*known, batches)  # all that a step makes of pixels
    np.testing.assert_allclose(same, hidden, atol=1e-5 * float(jnp.abs(hidden).max()))


def test_tiled_pictures_train(tokenizer):
    recipe = EditorTrainConfig(batch_n=2, answers_n=25, learning_rate=1e-2)
    data = EditingData(tokenizer, TILED, recipe, EditMixture())
    state = training.init_state(Backbone(TILED), EDITOR, recipe, jax.random.key(1))
    before = jax.tree.map(np.asarray, state.params)
    after, scalars = step_of(TILED, recipe, data, state, data.batch_at(0))
    assert np.isfinite(float(scalars["loss"])) and float(scalars["gradient_norm"]) > 0
    changed = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), after.params, before)
    assert changed["down"]["query"] and changed["up"]["query"]
