"""LEMoE: experts and routing by hand, frozen experts, batches with missing rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.baselines import adapter
from liveedit_jax.baselines.lemoe import Lemoe, apply_experts, routing_scores
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.editors import split_at_layer
from liveedit_jax.types import Batch

EDITOR = Lemoe(together=2, rank=2, router_width=4, steps_n=30)


@pytest.fixture(scope="module")
def model(micro):
    """Three requests about three pictures, then a row that is missing."""
    backbone, weights = split_at_layer(micro.backbone, micro.params["backbone"], EDITOR.layer)
    rng = np.random.default_rng(2)
    token = np.tile(micro.batch.token, (4, 1))
    token[:, 5:9] = rng.integers(3, 50, (4, 4))
    role = np.tile(micro.batch.role, (4, 1))
    role[3] = 0
    image = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    params, batch = {"backbone": weights, "editor": None}, Batch(token, role, image)
    known = EDITOR.encode(backbone, params, batch, backbone.vision_features(weights, image))
    return backbone, params, known, batch


@pytest.fixture(scope="module")
def edited(model):
    backbone, params, *rows = model
    edit = jax.jit(partial(EDITOR.edit, backbone, params))
    first, second = (jax.tree.map(lambda leaf, s=s: leaf[s : s + 2], rows) for s in (0, 2))
    one = edit(EDITOR.init(backbone, params, 3), *first)
    return one, edit(one, *second)


def test_experts_and_scores_by_hand():
    rng = np.random.default_rng(0)
    shape = {"down1": (3, 2), "up1": (2, 5), "down2": (5, 2), "up2": (2, 3)}
    body = {name: rng.normal(size=(1, 2, *s)).astype(np.float32) for name, s in shape.items()}
    x = rng.normal(size=(1, 4, 3)).astype(np.float32)
    for k in range(2):
        one = {name: leaf[0, k] for name, leaf in body.items()}
        want = np.maximum(x[0] @ one["down1"] @ one["up1"], 0) @ one["down2"] @ one["up2"]
        np.testing.assert_allclose(apply_experts(body, x)[0, k], want, atol=1e-5)
    router = {"project": rng.normal(size=(2, 3, 4)), "key": rng.normal(size=(2, 4))}
    value = x[0] @ router["project"][1]
    want = (value / (1 + np.exp(-value))) @ router["key"][1]
    np.testing.assert_allclose(routing_scores(router, x[0])[:, 1], want, atol=1e-5)


def test_experts_are_frozen_and_rows_find_their_own(model, edited):
    backbone, params, known, batch = model
    one, two = edited
    assert (int(two.experts_n), int(two.anchors_n)) == (2, 3)
    frozen = [jax.tree.map(lambda leaf: leaf[0], (s.body, s.router)) for s in (one, two)]
    jax.tree.map(np.testing.assert_array_equal, *frozen)
    row = adapter.query(backbone, params["backbone"], known, batch)
    np.testing.assert_allclose(two.anchor, row[:3], rtol=1e-6)
    np.testing.assert_array_equal(EDITOR.masked_scores(two, row[:3]).argmax(1), [0, 0, 1])
    unedited = EDITOR.logits(backbone, params, EDITOR.init(backbone, params, 3), known, batch, None)
    after = EDITOR.logits(backbone, params, two, known, batch, None)
    assert target_loss(backbone, after, batch) < 0.7 * target_loss(backbone, unedited, batch)


def test_the_loss_by_hand_and_a_missing_row_does_not_count(model, edited):
    backbone, params, *rows = model
    weights, (one, _) = params["backbone"], edited
    made = jax.tree.map(lambda leaf: leaf[0] + 0.1, (one.body, one.router))

    def loss(weight: float, chosen: slice):
        known, batch = jax.tree.map(lambda leaf: leaf[chosen], rows)
        present = jnp.asarray((batch.role != 0).any(1))
        editor = Lemoe(anchor_weight=weight)
        return editor.make_loss(backbone, weights, one, known, batch, present)(made)

    body, router = jax.tree.map(lambda all_, new: all_.at[1].set(new), (one.body, one.router), made)
    both = one._replace(body=body, router=router, experts_n=jnp.asarray(2))
    known, batch = jax.tree.map(lambda leaf: leaf[2:3], rows)

    @jax.jit
    def run():
        logits = EDITOR.logits(backbone, params, both, known, batch, None)
        row = adapter.query(backbone, weights, known, batch)
        losses = loss(1.0, slice(2, 3)), loss(1.0, slice(2, 4)), loss(0.0, slice(2, 3))
        return losses, target_loss(backbone, logits, batch), EDITOR.masked_scores(both, row)[0]

    losses, told, (old, new) = run()
    lost = [np.log1p(np.exp(b - a)) for a, b in EDITOR.masked_scores(both, both.anchor[:2])]
    routing = np.log1p(np.exp(old - new)) + np.mean(lost)
    np.testing.assert_allclose(losses, [told + routing, told + routing, told], rtol=1e-5)
