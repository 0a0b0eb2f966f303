"""SERAC: two texts as one, an edit in scope is answered, all else stays exactly as it was."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from liveedit_jax import editors as compiled
from liveedit_jax.backbones import decoder
from liveedit_jax.baselines.serac import Serac
from liveedit_jax.baselines.texts import Text, append_eos, extract_text, text_positions
from liveedit_jax.data.tokenise import answer_labels

EDITOR = Serac(key_width=8, text_n=6)


@pytest.fixture(scope="module")
def params(micro):
    weights = micro.params["backbone"]
    own = jax.jit(partial(EDITOR.init_params, micro.backbone, weights))(jax.random.key(2))
    return {"backbone": weights, "editor": own}


def test_texts_by_hand(micro):
    text = extract_text(micro.batch, 6)
    np.testing.assert_array_equal(text.token, [[7, 8, 9, 10, 0, 0]])
    np.testing.assert_array_equal(text.role, [[3, 3, 4, 4, 0, 0]])
    np.testing.assert_array_equal(text_positions(micro.batch, micro.at), [[1, 2, 3]])
    whole = append_eos(text, 2)
    np.testing.assert_array_equal(whole.token, [[7, 8, 9, 10, 2, 0]])
    np.testing.assert_array_equal(whole.role, [[3, 3, 4, 4, 4, 0]])
    np.testing.assert_array_equal(append_eos(extract_text(micro.batch, 3), 2).token, [[7, 8, 9]])
    assert extract_text(micro.batch, 12).token.shape == (1, 12)


def test_odds_by_hand():
    question, edits = jnp.asarray([[1.0, 2.0]]), jnp.asarray([[1.0, 2.5], [3.0, 2.0]])
    found = EDITOR.score({"radius": jnp.asarray(1.0)}, question, edits)
    np.testing.assert_allclose(found, [[0.75, -3.0]])


def test_the_counterfactual_model_reads_two_texts_without_gaps(micro, params):
    backbone, cfg = micro.backbone, micro.backbone.cfg.decoder
    edit = Text(np.asarray([[5, 6, 7, 2, 0, 0]]), np.asarray([[3, 4, 4, 4, 0, 0]]))
    question = Text(np.asarray([[8, 9, 7, 0]]), np.asarray([[3, 3, 4, 0]]))
    found = EDITOR.counterfactual(backbone, params, edit, question, np.asarray([[1, 2]]))
    # the same in one row of seven tokens; answers begin at 6 = text_n
    position, part = np.asarray([[5, 6, 7, 8, 4, 5, 6]]), np.asarray([0, 1, 1, 1, 2, 2, 3])
    x = params["backbone"]["embed"][np.asarray([[5, 6, 7, 2, 8, 9, 7]])]
    x = x + params["editor"]["part"][part]
    context = decoder.context(cfg, position, np.tril(np.ones((1, 7, 7), bool)))
    for i in range(EDITOR.layers_n):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params["editor"]["layers"])
        x, _ = decoder.layer(cfg).apply({"params": layer}, x, None, context)
    want = backbone.head(params["backbone"], x[:, 5:])
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_a_trained_memory_answers_its_edits_and_leaves_all_else_exactly_as_it_was(
    micro, params, lesson
):
    backbone, weights = micro.backbone, params["backbone"]
    optimizer = optax.adam(1e-2)

    @jax.jit
    def train(own):
        def step(carry, key):
            own, moments = carry
            trained = {"backbone": weights, "editor": own}
            grads, scalars = jax.grad(
                lambda own: EDITOR.loss(backbone, trained | {"editor": own}, lesson, key),
                has_aux=True,
            )(own)
            change, moments = optimizer.update(grads, moments)
            return (optax.apply_updates(own, change), moments), scalars["counterfactual"]

        keys = jax.random.split(jax.random.key(0), 200)
        (own, _), losses = jax.lax.scan(step, (own, optimizer.init(own)), keys)
        return own, losses

    own, losses = train(params["editor"])
    assert losses[-1] < 0.3 * losses[0]  # a random head is never sure
    trained = {"backbone": weights, "editor": own}
    model = EDITOR, backbone, trained

    @jax.jit
    def ask(state, known, batch, at):
        return EDITOR.logits(backbone, trained, state, known, batch, at)

    upper = jax.jit(backbone.upper)
    known = [compiled.encode(*model, kind.batch, kind.seen) for kind in lesson]
    label, mask, eos = answer_labels(lesson.edit.batch, backbone.cfg.eos_id)
    at = np.tile(micro.at, (2, 1))
    label = np.take_along_axis(np.asarray(label), at, axis=1)
    unedited = [
        np.asarray(upper(weights, each.hidden, kind.batch, at))
        for each, kind in zip(known, lesson, strict=True)
    ]
    state = EDITOR.init(backbone, trained, 5)
    shapes = jax.tree.map(jnp.shape, state)
    for each, kind, want in zip(known, lesson, unedited, strict=True):
        np.testing.assert_array_equal(ask(state, each, kind.batch, at), want)
    for i in range(2):
        one, batch = jax.tree.map(lambda x, i=i: x[i : i + 1], (known[0], lesson.edit.batch))
        state = compiled.edit(*model, state, one, batch)
    assert jax.tree.map(jnp.shape, state) == shapes and state["used_n"] == 2
    after = [
        np.asarray(ask(state, each, kind.batch, at))
        for each, kind in zip(known, lesson, strict=True)
    ]
    for found in after[:2]:
        np.testing.assert_array_equal(found.argmax(-1), label)
    for found, want in zip(after[3:], unedited[3:], strict=True):
        np.testing.assert_array_equal(found, want)


def test_a_question_without_a_picture_has_the_learned_vector_for_one(micro, params):
    hidden = jax.random.normal(jax.random.key(0), (1, 4, 16))
    role = np.asarray([[1, 3, 3, 4]])
    scope = params["editor"]["scope"] | {"no_image": jnp.arange(8.0)}
    key = EDITOR.key(scope, hidden, role)
    np.testing.assert_array_equal(key[0, 8:], np.arange(8.0))
    changed = EDITOR.key(scope, hidden.at[:, 3].set(0.0), role)  # the target is no part of a key
    np.testing.assert_array_equal(key, changed)
