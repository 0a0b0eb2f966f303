"""WISE: TIES and distances by hand, subspaces, and which questions keep the main memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.baselines.layer import mlp_input
from liveedit_jax.baselines.wise import Wise, change_norm, merge_by_ties, output_changes
from liveedit_jax.editors import split_at_layer

EDITOR = Wise(
    shard_n=1, subspaces_n=2, steps_n=8, merge_density=1.0, alpha=0.1, beta=0.5, gamma=0.2,
    mask_share=0.2, slack=0.88, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(micro):
    backbone, weights = split_at_layer(micro.backbone, micro.params["backbone"], EDITOR.layer)
    params = {"backbone": weights, "editor": None}
    features = backbone.vision_features(weights, micro.batch.image)
    return backbone, params, EDITOR.encode(backbone, params, micro.batch, features)


def test_ties_by_hand():
    change = jnp.asarray([[[4.0, 1.0, 3.0, 0.0]], [[2.0, -5.0, 0.1, 0.0]], [[0.0, 3.0, -2.0, 0.0]]])
    # halves: (4, 3), (2, -5), (3, -2); signs: +, - (5 > 3), + (3 > 2)
    np.testing.assert_allclose(merge_by_ties(change, 0.5), [[3.0, -5.0, 3.0, 0.0]])
    whole = merge_by_ties(change, 1.0)  # 1 and 3 against -5; 3 and 0.1 against -2
    np.testing.assert_allclose(whole, [[3.0, -5.0, 1.55, 0.0]], rtol=1e-6)


def test_distances_by_hand(micro, model):
    backbone, params, known = model
    weights = params["backbone"]
    change = np.random.default_rng(1).normal(size=(2, 24, 16)).astype(np.float32)
    x = np.asarray(mlp_input(backbone, weights, known.states))[0]
    gate, up = (np.asarray(weights["lower"][name]["kernel"][-1]) for name in ("gate", "up"))
    a = x @ gate / (1 + np.exp(-x @ gate)) * (x @ up)
    found = output_changes(backbone, weights, jnp.asarray(change), known.states)
    np.testing.assert_allclose(found[:, 0], a @ change, atol=1e-5)
    want = np.linalg.norm(a @ change, axis=-1)[:, 5:7].mean(1)  # the prompt's two tokens
    np.testing.assert_allclose(change_norm(found, micro.batch.role)[:, 0], want, rtol=1e-5)


def test_shards_have_subspaces_and_are_merged(micro, model):
    backbone, params, known = model
    edit = jax.jit(partial(EDITOR.edit, backbone, params))
    begun = EDITOR.init(backbone, params, 4)
    one = edit(begun, known, micro.batch)
    touched = np.asarray(one.change != 0)
    assert not touched[[0, 2]].any() and 0.1 < touched[1].mean() < 0.3
    far = change_norm(
        output_changes(backbone, params["backbone"], one.change, known.states), micro.batch.role
    )
    np.testing.assert_allclose(one.least, far[1, 0], rtol=1e-5)
    near = edit(begun._replace(edits_n=jnp.asarray(2)), known, micro.batch)  # the third shard's
    assert (near.change[1] != 0).any() and not (touched[1] == (near.change[1] != 0)).all()
    two = edit(one, known, micro.batch)
    assert int(two.edits_n) == 2 and not np.asarray(two.change[1:]).any()
    alone = edit(begun._replace(edits_n=jnp.asarray(1), least=one.least), known, micro.batch)
    merged = np.asarray(two.change[0])
    only = touched[1] & (merged == np.asarray(one.change[1]))
    assert only.sum() > 0.6 * touched[1].sum()  # where the subspaces do not overlap
    assert (merged[~touched[1]] != 0).any() and not np.asarray(alone.change[1:]).any()


def test_what_no_memory_moves_far_is_left_exactly_alone(micro, model):
    backbone, params, known = model
    state = EDITOR.init(backbone, params, 4)
    change = state.change.at[1].set(0.1).at[2].set(0.2)
    weights = params["backbone"]
    moved = output_changes(backbone, weights, change, known.states)
    far = change_norm(moved, micro.batch.role)[2, 0]
    for least, want in ((far / 0.87, known.output), (far / 0.89, known.output + moved[2])):
        state = state._replace(change=change, least=least)
        added = EDITOR.edited_output(backbone, weights, state, known, micro.batch)
        np.testing.assert_allclose(added, want, atol=1e-5)
    far_away = state._replace(least=jnp.asarray(jnp.inf))
    np.testing.assert_array_equal(
        EDITOR.edited_output(backbone, weights, far_away, known, micro.batch), known.output
    )
