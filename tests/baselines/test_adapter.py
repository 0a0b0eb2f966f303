"""Editors beside the MLP: places in rows, and one edit of each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.baselines import adapter
from liveedit_jax.baselines.grace import Grace
from liveedit_jax.baselines.lemoe import Lemoe
from liveedit_jax.baselines.t_patcher import TPatcher
from liveedit_jax.baselines.wise import Wise
from liveedit_jax.editors import split_at_layer
from liveedit_jax.types import Batch

EDITORS = (
    Grace(layer=0, steps_n=20),
    Wise(steps_n=20, alpha=0.1, beta=0.5, gamma=0.2, mask_share=0.5, learning_rate=0.03),
    TPatcher(steps_n=20, tokens_n=4),
    Lemoe(steps_n=20, together=1, rank=2),
)


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: type(editor).__name__)
def test_an_edit_is_learnt_and_without_one_nothing_changes(micro, editor):
    batch, (backbone, weights) = (
        micro.batch,
        split_at_layer(micro.backbone, micro.params["backbone"], editor.layer),
    )
    params = {"backbone": weights, "editor": None}

    @jax.jit
    def run(image):
        seen = editor.encode_image(backbone, params, image)
        known = editor.encode(backbone, params, batch, seen)
        state = editor.init(backbone, params, 4)
        after = editor.edit(backbone, params, state, known, batch)
        hidden = backbone.lower_from_features(weights, batch, seen)
        plain = backbone.upper(weights, hidden, batch, micro.at)
        logits = partial(editor.logits, backbone, params)
        return plain, *(logits(s, known, batch, micro.at) for s in (state, after))

    plain, before, after = run(batch.image)
    np.testing.assert_allclose(before, plain, atol=1e-5)
    label = np.asarray([[9, 10, backbone.cfg.eos_id]])

    def loss(logits):
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, label[..., None], -1).mean()

    assert loss(after) < 0.8 * loss(before)


def test_places_of_a_row():
    role = jnp.asarray([[1, 2, 3, 3, 4, 4, 0], [1, 3, 0, 0, 0, 0, 0], [0] * 7])
    np.testing.assert_array_equal(adapter.prompt_end(role), [3, 1, 0])
    np.testing.assert_array_equal(
        adapter.prediction_mask(role),
        [[0, 0, 0, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0, 0], [0] * 7],
    )


def test_a_row_without_its_picture_is_a_question_without_one(micro):
    backbone, weights = micro.backbone, micro.params["backbone"]
    bare = adapter.drop_images(micro.batch)
    kept = np.asarray(bare.role[0] != 0)
    text = Batch(micro.batch.token[:, kept], micro.batch.role[:, kept], micro.batch.image)
    rows = [backbone.lower_from_features(weights, batch, None) for batch in (bare, text)]
    np.testing.assert_allclose(rows[0][:, kept], rows[1], atol=1e-5)


def test_rows_are_written_one_behind_the_other():
    rows, new = jnp.zeros(4), jnp.asarray([1.0, 2.0, 3.0])
    mask, used_n = jnp.asarray([True, False, True]), jnp.asarray(3)
    np.testing.assert_array_equal(adapter.insert_rows(rows, new, mask, used_n), [0, 0, 0, 1])
    np.testing.assert_array_equal(
        adapter.insert_rows(rows, new, mask, used_n, wrap=True), [3, 0, 0, 1]
    )
