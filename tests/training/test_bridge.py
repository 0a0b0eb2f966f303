"""Training of a bridge between frozen parts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbone_config import BackboneConfig, EfficientNetConfig, LlamaConfig, Stage
from liveedit_jax.backbones import Backbone
from liveedit_jax.config import BridgeTrainConfig, PretrainConfig
from liveedit_jax.data.facts import SOURCES, entities
from liveedit_jax.data.tokenise import first_true
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.training.bridge import BridgeData, bridge_loss, bridge_step, init_state
from liveedit_jax.types import Role

SMALL = BackboneConfig(
    vision=EfficientNetConfig(
        image_size=32, stem_width=8, stages=(Stage(1, 3, 2, 1, 8),), width=24, side=2
    ),
    decoder=LlamaConfig(
        vocab_n=1024,
        width=32,
        layers_n=4,
        heads_n=2,
        kv_heads_n=1,
        head_width=16,
        mlp_width=48,
        tied_head=True,
    ),
    edit_layer=1,
)
DRAWINGS_N = len(SOURCES) * len(entities())
CFG = BridgeTrainConfig(
    data=PretrainConfig(images_n=4, pairs_n=4, strange_n=1),
    steps_n=40,
    learning_rate=1e-2,
    warmup_steps=2,
)


loss_of = jax.jit(bridge_loss, static_argnums=(0, 1))


@pytest.fixture(scope="module")
def parts():
    backbone = Backbone(SMALL)
    weights = jax.jit(backbone.init)(jax.random.key(0))
    frozen = {name: part for name, part in weights.items() if name != "projector"}
    states = jnp.asarray(np.random.default_rng(0).normal(size=(DRAWINGS_N, 4, 24)), jnp.float16)
    return backbone, frozen, states, BridgeData(mojiedit_tokenizer(1024), backbone, CFG)


def test_first_true_keeps_the_order():
    mask = np.array([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1]], bool)
    assert first_true(mask, 3)[0].tolist() == [1, 3, 4]
    assert first_true(mask, 3)[1, 0] == 4


def test_a_batch_asks_about_the_pictures_it_shows(parts):
    _, _, _, data = parts
    batch = data.batch_at(3)
    again = data.batch_at(3)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    role = np.take_along_axis(np.asarray(batch.rows.role), np.asarray(batch.at), 1)
    assert set(role[np.asarray(batch.mask)]) <= {Role.PROMPT, Role.ANSWER}
    assert np.asarray(batch.mask).sum() > 4 * 10
    first, second = np.split(np.asarray(batch.picture), 2)
    assert (first // 2 == second // 2).all()  # both halves show the same entities
    assert (np.asarray(batch.pairs) < DRAWINGS_N).all()


def test_the_bridge_learns_and_nothing_else_changes(parts):
    backbone, frozen, states, data = parts
    before = jax.tree.map(np.array, frozen)
    state = init_state(backbone, CFG, jax.random.key(1))
    start = jax.tree.map(np.array, state.params)
    batch, losses = data.batch_at(0), []
    for _ in range(25):
        state, scalars = bridge_step(backbone, CFG, frozen, states, state, batch)
        losses.append(float(scalars["loss"]))
    assert losses[-1] < losses[0] - 0.1
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    changed = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), state.params, start)
    assert min(jax.tree.leaves(changed)) > 0


def test_logits_at_answers_are_the_loss_of_all_positions(parts):
    """Cross-entropy over the chosen positions is that over the whole rows."""
    import optax

    from liveedit_jax.backbones.registry import bridge
    from liveedit_jax.data.tokenise import answer_labels

    backbone, frozen, states, data = parts
    params, batch = init_state(backbone, CFG, jax.random.key(1)).params, data.batch_at(1)
    alone = replace(CFG, contrastive_weight=0.0, length_weight=0.0)
    found, _ = loss_of(backbone, alone, frozen, states, params, batch)
    weights = frozen | {"projector": params}
    read = states[batch.picture].astype(jnp.float32)

    @jax.jit
    def logits_of(weights, read, rows):
        features = bridge(SMALL).apply({"params": weights["projector"]}, read)
        hidden = backbone.lower_from_features(weights, rows, features)
        return backbone.upper(weights, hidden, rows)

    logits = logits_of(weights, read, batch.rows)
    label, answer, eos = answer_labels(batch.rows, SMALL.eos_id)
    mask = answer | eos
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    assert int(mask.sum()) == int(batch.mask.sum())  # no answer was cut off
    np.testing.assert_allclose(found, (loss * mask).sum() / mask.sum(), rtol=1e-5)


def test_uneven_lengths_cost(parts):
    backbone, frozen, states, data = parts
    params, batch = init_state(backbone, CFG, jax.random.key(1)).params, data.batch_at(1)
    with_it, scalars = loss_of(backbone, CFG, frozen, states, params, batch)
    without, _ = loss_of(backbone, replace(CFG, length_weight=0.0), frozen, states, params, batch)
    assert float(scalars["uneven"]) > 0
    np.testing.assert_allclose(with_it - without, scalars["uneven"], rtol=1e-3, atol=1e-5)
    same = batch.replace(pairs=jnp.zeros_like(batch.pairs))  # one drawing again and again
    assert float(loss_of(backbone, CFG, frozen, states, params, same)[1]["uneven"]) < 1e-6
