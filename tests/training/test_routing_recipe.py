"""The recipe may change the routing terms, and leaves the edit terms alone."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import EDITOR, SMALL, small_weights

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditMixture, EditorTrainConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.training import editor as editor_training
from liveedit_jax.training.editor_loss import blend_images, editor_loss
from liveedit_jax.types import Role


def test_more_routing_samples_leave_the_edit_terms_alone(tokenizer):
    backbone = Backbone(SMALL)
    weights = small_weights()
    few, many = EditorTrainConfig(batch_n=4), EditorTrainConfig(batch_n=4, routing_n=7)
    data = EditingData(tokenizer, SMALL, many, EditMixture(lengths=((60, 1.0),)))
    batch = data.batch_at(0)
    assert batch.picture.shape == (4, 7)
    shape = (2 * len(data.entities), SMALL.vision_n, SMALL.width)
    pictures = jax.random.normal(jax.random.key(2), shape)
    params = editor_training.init_state(backbone, EDITOR, few, jax.random.key(1)).params

    @partial(jax.jit, static_argnums=0)
    def scalars(recipe, batch):
        features = pictures[batch.picture.T.reshape(-1)]
        hidden = editor_training.lower_from_features(backbone, weights, features, batch)
        return editor_loss(
            backbone, EDITOR, recipe, weights, params, batch, hidden, jax.random.key(0)
        )[1]

    first = jax.tree.map(lambda leaf: leaf[:, :4], batch)
    a, b = scalars(few, first), scalars(many, batch)
    for term in ("reliability", "text_generality", "image_generality", "image_locality"):
        np.testing.assert_allclose(a[term], b[term], rtol=1e-5)
    assert float(a["hard_other"]) != float(b["hard_other"])
    with pytest.raises(ValueError, match="routing_n=3 is below"):
        replace(many, routing_n=3)
    with pytest.raises(ValueError, match="routing_blend=1.5: a share"):
        replace(many, routing_blend=1.5)
    with pytest.raises(ValueError, match="routing_repository_n=0: 1 edit"):
        replace(many, routing_repository_n=0)


def test_blended_images_share_one_partner_and_leave_prompts_alone():
    role = jnp.broadcast_to(jnp.array([Role.PRE, Role.VISION, Role.VISION, Role.PROMPT]), (6, 2, 4))
    hidden = jnp.broadcast_to(jnp.eye(6)[:, None, None], (6, 2, 4, 6))  # sample j is unit vector j
    blend = np.asarray(blend_images(jax.random.key(3), hidden, role, 0.5))
    np.testing.assert_array_equal(blend[:, :, [0, 3]], hidden[:, :, [0, 3]])
    np.testing.assert_array_equal(blend[:, 0], blend[:, 1])  # all kinds of a sample alike
    image = blend[:, 0, 1]
    np.testing.assert_array_equal(blend[:, 0, 2], image)
    np.testing.assert_allclose(image.sum(-1), 1, rtol=1e-6)
    own = image.diagonal()
    assert (own >= 0.5).all() and own.min() < 0.95 and len(set(own)) > 1


def test_routing_beyond_the_released_codes_changes_hard_routing_alone(tokenizer):
    backbone = Backbone(SMALL)
    weights = small_weights()
    plain = EditorTrainConfig(batch_n=6)
    data = EditingData(
        tokenizer,
        SMALL,
        plain,
        EditMixture(lengths=((60, 1.0),), sibling_share=1.0, alike_share=0.0),
    )
    batch = jax.tree.map(jnp.asarray, data.batch_at(0))
    pictures = jax.random.normal(jax.random.key(2), (1400, SMALL.vision_n, 32))
    params = editor_training.init_state(backbone, EDITOR, plain, jax.random.key(1)).params
    features, lower = pictures[batch.picture.T.reshape(-1)], editor_training.lower_from_features
    hidden = editor_training.lower_states(backbone, plain, lower, weights, features, batch)

    @partial(jax.jit, static_argnums=0)
    def scalars(recipe):
        return editor_loss(
            backbone, EDITOR, recipe, weights, params, batch, hidden, jax.random.key(0)
        )[1]

    before = scalars(plain)
    hard = {"hard_neighbour", "hard_other"}
    for change, less in (
        ({"routing_skip_same": True}, True),
        ({"routing_repository_n": 1000}, False),
        ({"routing_blend": 0.5}, None),
    ):
        after = scalars(replace(plain, **change))
        for term in before.keys() - hard - {"loss"}:
            np.testing.assert_allclose(before[term], after[term], rtol=1e-4, atol=1e-6)
        assert before["hard_neighbour"] != after["hard_neighbour"]
        if less is not None:
            assert (after["hard_neighbour"] < before["hard_neighbour"]) == less
            assert (after["hard_other"] <= before["hard_other"]) == less
