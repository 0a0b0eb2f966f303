"""Fine-tuning one MLP or the bridge, edit after edit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from liveedit_jax import editors as compiled
from liveedit_jax.baselines.ft_l import FtL
from liveedit_jax.baselines.ft_m import FtM
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.data.tokenise import answer_labels
from liveedit_jax.editor.descent import box_projection, descend
from liveedit_jax.editors import split_at_layer


def known_of(editor, micro):
    shown = compiled.encode_image(editor, micro.backbone, micro.params, micro.batch.image)
    return compiled.encode(editor, micro.backbone, micro.params, micro.batch, shown)


@pytest.mark.parametrize("editor", [FtL(learning_rate=1e-2), FtM(learning_rate=1e-2)])
def test_an_edit_is_learnt_and_without_one_nothing_changes(micro, editor):
    backbone, weights = split_at_layer(micro.backbone, micro.params["backbone"], editor.layer)
    params, known = {"backbone": weights, "editor": None}, known_of(editor, micro)
    state = editor.init(backbone, params, 4)
    hidden = backbone.lower(weights, micro.batch)
    unedited = np.asarray(backbone.upper(weights, hidden, micro.batch, micro.at))
    found = editor.logits(backbone, params, state, known, micro.batch, micro.at)
    np.testing.assert_allclose(found, unedited, atol=1e-5)
    after = editor.edit(backbone, params, state, known, micro.batch)
    learnt = editor.logits(backbone, params, after, known, micro.batch, None)
    plain = editor.logits(backbone, params, state, known, micro.batch, None)
    assert target_loss(backbone, learnt, micro.batch) < target_loss(backbone, plain, micro.batch)


def test_ft_l_reads_the_loss_of_the_whole_model_and_touches_one_layer(micro):
    editor, backbone, weights = (
        FtL(layer=-1),
        *split_at_layer(micro.backbone, micro.params["backbone"], -1),
    )
    assert backbone.cfg.edit_layer == 2 and backbone.upper_n == 0
    params = {"backbone": weights, "editor": None}
    features = backbone.vision_features(weights, micro.batch.image)
    known = editor.encode(backbone, params, micro.batch, features)
    state = jax.tree.map(lambda leaf: leaf * 1.3, editor.init(backbone, params, 1))
    tuned = weights | {"lower": dict(weights["lower"])}
    for name, part in state.items():
        kernel = weights["lower"][name]["kernel"].at[2].set(part["kernel"])
        tuned["lower"][name] = {"kernel": kernel}
    want = backbone.upper(tuned, backbone.lower(tuned, micro.batch), micro.batch)
    found = editor.logits(backbone, params, state, known, micro.batch, None)
    np.testing.assert_allclose(found, want, atol=1e-5)
    label, mask, eos = answer_labels(micro.batch, backbone.cfg.eos_id)
    picked = -jnp.take_along_axis(jax.nn.log_softmax(want), label[..., None], -1)[..., 0]
    got = target_loss(backbone, found, micro.batch)
    np.testing.assert_allclose(got, picked[mask | eos].mean(), rtol=1e-5)


def test_ft_m_leaves_questions_without_a_picture_alone(micro):
    editor, backbone, params = FtM(), micro.backbone, micro.params
    role = np.where(micro.batch.role == 2, 3, micro.batch.role)
    text = micro.batch.replace(role=role)
    known = known_of(editor, micro)
    state = editor.init(backbone, params, 1)
    other = jax.tree.map(lambda leaf: leaf * 2.0, state)
    same = [editor.logits(backbone, params, s, known, text, micro.at) for s in (state, other)]
    np.testing.assert_array_equal(*same)
    shown = [
        editor.logits(backbone, params, s, known, micro.batch, micro.at) for s in (state, other)
    ]
    assert not np.array_equal(*shown)


def test_descent_by_hand():
    def loss(x):
        return jnp.square(x) / 2  # the gradient is x: each step takes a tenth away

    x, losses = descend(loss, jnp.asarray(1.0), optax.sgd(0.1), 5, stop_loss=0.3)
    # 0.5, 0.405, 0.328, 0.266: the step after the first loss below 0.3 is not taken
    np.testing.assert_allclose(losses[:4], [0.5, 0.405, 0.32805, 0.2657205], rtol=1e-6)
    assert np.isnan(losses[4]) and float(x) == pytest.approx(0.9**4)
    x, losses = descend(
        loss, jnp.asarray(1.0), optax.sgd(0.1), 3, 0.0, box_projection(jnp.asarray(1.0), 0.15)
    )
    assert float(x) == pytest.approx(0.85) and np.isfinite(losses).all()
