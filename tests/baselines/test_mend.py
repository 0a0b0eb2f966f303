"""MEND: factors are the gradient, the network, single edits in training as in evaluation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from liveedit_jax.baselines.factors import (
    GradientFactors,
    add_changes,
    feature_statistics,
    gradient_factors,
)
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.baselines.mend import BLOCKS_N, Mend, MendRecipe, running_average
from liveedit_jax.editors import split_at_layer

EDITOR = Mend(layer=0, rank=4, start_rate=0.02)


@pytest.fixture(scope="module")
def model(micro):
    backbone, weights = split_at_layer(micro.backbone, micro.params["backbone"], EDITOR.layer)
    own = EDITOR.init_params(backbone, weights, jax.random.key(3))
    return backbone, {"backbone": weights, "editor": own}


@pytest.fixture(scope="module")
def edit(model):
    return jax.jit(partial(EDITOR.edit, *model))


def test_a_network_that_leaves_factors_alone_descends_the_gradient_of_the_model_so_far(
    micro, model, edit
):
    backbone, params = model
    known = backbone.lower(params["backbone"], micro.batch)

    @jax.jit
    @jax.value_and_grad
    def loss(state):
        upper = backbone.upper(add_changes(params["backbone"], state), known, micro.batch)
        return target_loss(backbone, upper, micro.batch)

    state = EDITOR.init(backbone, params, 4)
    assert {name: leaf.shape[0] for name, leaf in state.items()} == {"gate": 2, "up": 2, "down": 2}
    losses = []
    for _ in range(2):
        value, gradient = loss(state)
        losses.append(float(value))
        want = jax.tree.map(lambda s, g: s - EDITOR.start_rate * g, state, gradient)
        state = edit(state, known, micro.batch)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6, rtol=1e-4), state, want)
    assert loss(state)[0] < losses[1] < losses[0]
    found = jax.jit(partial(gradient_factors, backbone, params["backbone"]))(known, micro.batch)
    read, predicting = np.arange(10) < 9, np.isin(np.arange(10), micro.at)
    for own in found.values():  # all but padding below, where answers are predicted in the end
        np.testing.assert_array_equal(own.mask[:, 0, :, 0], [read, predicting])
    before = EDITOR.logits(
        backbone, params, EDITOR.init(backbone, params, 4), known, micro.batch, micro.at
    )
    want = backbone.upper(params["backbone"], known, micro.batch, micro.at)
    np.testing.assert_array_equal(before, want)


def test_the_network_as_the_paper_writes_it():
    rng, (x, y, t, rank) = np.random.default_rng(0), (3, 2, 4, 2)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    error = draw(1, 1, t, y)
    error[:, :, 2] = 0  # a token that the loss does not depend on
    factors, width = GradientFactors(draw(1, 1, t, x), error), x + y
    params = {
        "statistics": {"up": {"mean": draw(1, width), "log_spread": draw(1, width)}},
        "blocks": {
            "3x2": {
                "reduce": draw(BLOCKS_N, width, rank),
                "expand": draw(BLOCKS_N, rank, width),
                "bias": draw(BLOCKS_N, width),
            }
        },
        "film": {"up": {"scale": draw(1, BLOCKS_N, width), "offset": draw(1, BLOCKS_N, width)}},
        "log_rate": {"up": draw(1)},
    }
    want = np.zeros((x, y), np.float32)
    (block,), film = params["blocks"].values(), params["film"]["up"]
    for token in (0, 1, 3):
        z = np.concatenate([factors.read[0, 0, token], error[0, 0, token]])
        own = params["statistics"]["up"]
        z = (z - own["mean"][0]) / np.exp(own["log_spread"][0])
        for k in range(BLOCKS_N):
            part = block["expand"][k].T @ (block["reduce"][k].T @ z) + block["bias"][k]
            part = film["scale"][0, k] * part + film["offset"][0, k]
            z = z + (np.maximum(part, 0) if k == 0 else part)
        want -= np.exp(params["log_rate"]["up"][0]) * np.outer(z[:x], z[x:])
    found = EDITOR.change(params, "up", factors)[0]
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_statistics_are_of_the_tokens_that_count_and_average_over_steps():
    read = np.asarray([[[[1.0], [3.0], [9.0]]]], np.float32)
    error = np.asarray([[[[2.0], [-2.0], [0.0]]]], np.float32)
    found = feature_statistics(GradientFactors(jnp.asarray(read), jnp.asarray(error)))
    np.testing.assert_allclose(found["mean"], [[2.0, 0.0]])
    np.testing.assert_allclose(found["log_spread"], np.log([[1.0, 2.0]]), atol=1e-6)

    params = {"statistics": jnp.ones(2), "blocks": jnp.ones(1), "film": {}, "log_rate": {}}
    optimizer = MendRecipe(steps_n=10, warmup_steps=2).optimizer
    moments, seen = optimizer.init(params), jnp.asarray([[1.0, 5.0], [2.0, 0.0], [6.0, 1.0]])
    for row in seen:
        value, pull = jax.value_and_grad(running_average)(params["statistics"], row)
        assert value == 0
        grads = jax.tree.map(jnp.zeros_like, params) | {"statistics": pull}
        change, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, change)
    np.testing.assert_allclose(params["statistics"], seen.mean(0), rtol=1e-6)


def test_a_lesson_is_made_of_single_edits(model, edit, lesson):
    backbone, params = model
    value, terms = jax.jit(lambda own: EDITOR.loss(backbone, own, lesson, None))(params)
    losses = []
    for i in range(2):
        request, asked = (jax.tree.map(lambda x, i=i: x[i : i + 1], lesson[k]) for k in (0, 1))
        known, other = (
            EDITOR.encode(backbone, params, row.batch, row.seen) for row in (request, asked)
        )
        state = edit(EDITOR.init(backbone, params, 1), known, request.batch)
        made = EDITOR.logits(backbone, params, state, other, asked.batch, None)
        losses.append(target_loss(backbone, made, asked.batch))
    np.testing.assert_allclose(terms["text_generality"], np.mean(losses), rtol=1e-4)
    near = sum(terms[name] for name in ("edit", "text_generality", "image_generality"))
    far = terms["image_locality"] + terms["text_locality"]
    np.testing.assert_allclose(value, EDITOR.edit_weight * near + far, rtol=1e-5)
