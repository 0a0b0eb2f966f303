"""Where editor training starts (gates, paired sides) and the rates of an editor's parts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditMixture, EditorTrainConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.pretraining import mojiedit_tokenizer
from liveedit_jax.editor import generator
from liveedit_jax.editor.attention import normalise
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.presets import preset
from liveedit_jax.training.gates import Gates, edit_states, fit_gates, gate_loss, start_gates
from liveedit_jax.training.optimizers import editor_optimizer
from liveedit_jax.types import Batch, Role

EDITOR = replace(preset("tiny").editor, module_width=16, heads_n=2, rank=4)
N, WIDTH, CODE = 200, 96, 32


@pytest.fixture(scope="module")
def edits():
    """States whose first axes hold a code of the token and the next ones that of the one before."""
    rng = np.random.default_rng(0)
    role = np.tile([Role.PRE, Role.PROMPT, *[Role.ANSWER] * 6, Role.PAD], (N, 1)).astype(np.int8)
    token = np.stack([rng.permutation(50)[:9] for _ in range(N)])
    code = rng.choice([-1.0, 1.0], (50, CODE))
    rest = rng.normal(size=(N, 9, WIDTH - 2 * CODE))
    states = np.concatenate([code[token], code[np.roll(token, 1, 1)], rest], -1)
    return jnp.asarray(states, jnp.float32), jnp.asarray(token), jnp.asarray(role)


def test_gate_loss_tells_right_gates_from_wrong_ones(edits):
    eye = jnp.eye(CODE) / CODE
    right = jnp.zeros((WIDTH, WIDTH)).at[CODE : 2 * CODE, :CODE].set(eye)
    own = jnp.zeros((WIDTH, WIDTH)).at[:CODE, :CODE].set(eye)  # fires at j, not before it
    zero = jnp.zeros(WIDTH)
    good, bad, shut = (
        float(gate_loss(Gates(kernel, zero), *edits)) for kernel in (right, own, 0 * own)
    )
    assert good < 0.3 < shut < bad
    assert shut == pytest.approx(1.0)


def test_fitted_gates_fire_before_their_token_and_nowhere_else(edits):
    gates, loss = fit_gates(*edits, 0)
    assert float(loss) < 0.1
    states, _, role = edits
    scores = jnp.einsum("bjd,btd->bjt", states @ gates.kernel + gates.bias, states)
    answers = np.flatnonzero(role[0] == Role.ANSWER)
    found = np.asarray(scores[:, answers, :8].argmax(-1))
    assert (found == answers - 1).mean() > 0.99


def test_states_of_edits_are_those_of_the_frozen_model():
    tiny = preset("tiny")
    shape = replace(tiny.backbone, decoder=replace(tiny.backbone.decoder, width=32, layers_n=4))
    backbone, recipe = Backbone(shape), EditorTrainConfig(batch_n=3)
    data = EditingData(mojiedit_tokenizer(1024), shape, recipe, EditMixture())
    weights = backbone.init(jax.random.key(0))
    pictures = jax.random.normal(jax.random.key(1), (2 * len(data.entities), shape.vision_n, 32))
    states, token, role = edit_states(backbone, weights, pictures, data, 1e-5, batches_n=2)
    assert states.shape == (6, 60, 32) and token.shape == role.shape == (6, 60)
    batch = data.batch_at(1)
    rows = Batch(batch.token[0], batch.role[0], jnp.zeros((3, 1, 1, 3)))
    want = backbone.lower_from_features(weights, rows, pictures[batch.picture[0]])
    t = want.shape[1]
    np.testing.assert_allclose(states[3:, :t], normalise(want, 1e-5), atol=1e-5)
    np.testing.assert_array_equal(token[3:, :t], batch.token[0])
    assert not role[3:, t:].any()


def test_the_down_generator_starts_as_the_gates(edits):
    params = init_params(jax.random.key(0), EDITOR, WIDTH, 4)
    gates = Gates(jax.random.normal(jax.random.key(1), (WIDTH, WIDTH)), jnp.ones(WIDTH))
    started = start_gates(EDITOR, params, gates, 0.25)
    token = edits[0][:3, 2:3]  # one token to attend to: every row is made from it
    down = generator.generate(
        EDITOR, generator.prepare(EDITOR, started["down"]), token, jnp.ones((3, 1), bool)
    )
    want = 0.25 * (token @ gates.kernel + gates.bias)
    np.testing.assert_allclose(down, jnp.broadcast_to(want, down.shape), rtol=1e-4, atol=1e-5)
    same = jax.tree.map(jnp.array_equal, params, started)
    assert not same["down"]["attention"]["v"]["kernel"]
    same["down"]["attention"]["v"] = {}
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("paired", [False, True])
def test_paired_init_starts_both_sides_alike(paired):
    params = init_params(jax.random.key(0), replace(EDITOR, paired_init=paired), WIDTH, 4)
    down, up = params["down"], params["up"]
    assert jnp.array_equal(down["query"], up["query"]) == paired
    for name in ("q", "k"):
        same = jnp.array_equal(down["attention"][name]["kernel"], up["attention"][name]["kernel"])
        assert same == paired
    assert not jnp.array_equal(down["attention"]["v"]["kernel"], up["attention"]["v"]["kernel"])
    sentinel = params["input"].pop("sentinel")
    assert sentinel.shape == (4, WIDTH)
    same = jax.tree.map(jnp.array_equal, params["edit"], params["input"])
    assert all(jax.tree.leaves(same)) == paired


def test_vision_values_start_larger_by_their_scale():
    one, three = (
        init_params(jax.random.key(0), replace(EDITOR, vision_init_scale=scale), WIDTH, 4)
        for scale in (1.0, 3.0)
    )
    for side in ("edit", "input"):
        value, large = (params[side]["vision_attention"].pop("v") for params in (one, three))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(3 * a, b, rtol=1e-6), value, large)
    jax.tree.map(np.testing.assert_array_equal, one, three)


def test_the_parts_have_rates_of_their_own():
    plain = EditorTrainConfig(learning_rate=0.01, muon=True, clip_norm=1.0)
    params = init_params(jax.random.key(0), EDITOR, WIDTH, 4)
    grads = jax.tree.map(jnp.ones_like, params)

    def step(recipe):
        optimizer = editor_optimizer(recipe)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    a = step(plain)
    b = step(replace(plain, rate_extractor=2.0, rate_attention=0.5, rate_down=0.1, rate_up=3.0))
    ratio = jax.tree.map(lambda x, y: float((y / x).mean()), a, b)
    for side, rate in (("down", 0.1), ("up", 3.0)):
        for leaf in jax.tree.leaves(ratio[side]["attention"]["v"]):
            assert leaf == pytest.approx(rate, rel=1e-4)
        assert ratio[side]["query"] == pytest.approx(0.5, rel=1e-4)
        assert ratio[side]["attention"]["k"]["kernel"] == pytest.approx(0.5, rel=1e-4)
        assert ratio[side]["norm"]["scale"] == pytest.approx(1.0, rel=1e-4)
    for part, rate in (("edit", 2.0), ("input", 2.0), ("norm", 1.0)):
        assert all(x == pytest.approx(rate, rel=1e-4) for x in jax.tree.leaves(ratio[part]))
