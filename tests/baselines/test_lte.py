"""LTE: a model that is taught to use the edit that stands between image and question."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from liveedit_jax import editors as compiled
from liveedit_jax.baselines.lte import Lte, descriptor, init_lora, merge_lora
from liveedit_jax.baselines.trained import TrainingRecipe, init_state

TEACHING = TrainingRecipe(steps_n=30, warmup_steps=1, learning_rate=1e-2)
EDITOR = Lte(recipe=TEACHING, rank=4, key_width=8, text_n=6, threshold=None)


@pytest.fixture(scope="module")
def model(micro):
    own = init_state(EDITOR, micro.backbone, micro.params["backbone"]).params
    return micro.backbone, micro.params | {"editor": own}


@pytest.fixture(scope="module")
def logits(micro, model):
    """The logits of the request's question, compiled once for all weights of the editor."""
    run = jax.jit(EDITOR.logits, static_argnums=0)
    backbone, fresh = model
    return lambda state, known, params=fresh: np.asarray(
        run(backbone, params, state, known, micro.batch, micro.at)
    )


@pytest.fixture(scope="module")
def known(model, micro):
    shown = compiled.encode_image(EDITOR, *model, micro.batch.image)
    return compiled.encode(EDITOR, *model, micro.batch, shown)


def random_lora(lora):
    return jax.tree.map(lambda x: 0.3 * jax.random.normal(jax.random.key(5), x.shape), lora)


@pytest.fixture(scope="module")
def read(micro):
    """A model's logits of a row as it is written, compiled once for all weights."""

    @jax.jit
    def run(weights, seen, batch, at):
        hidden = micro.backbone.lower_from_features(weights, batch, seen)
        return micro.backbone.upper(weights, hidden, batch, at)

    return lambda weights, known, batch, at: np.asarray(run(weights, known["seen"], batch, at))


def test_lora_is_every_kernel_plus_a_product_and_at_first_nothing(model, micro):
    weights = micro.params["backbone"]
    lora = init_lora(weights, 4, jax.random.key(0))
    same = merge_lora(weights, lora)
    assert jax.tree.structure(same) == jax.tree.structure(weights)
    jax.tree.map(np.testing.assert_array_equal, same, weights)
    lora = random_lora(lora)
    more = merge_lora(weights, lora)
    for half, layers_n in (("lower", 2), ("upper", 1)):
        for part in ("q", "k", "v", "o"):
            own = lora[half]["attention"][part]
            want = weights[half]["attention"][part]["kernel"] + np.einsum(
                "lir,lro->lio", own["down"], own["up"]
            )
            got = more[half]["attention"][part]["kernel"]
            np.testing.assert_allclose(got, want, atol=1e-5)
            assert len(got) == layers_n
        assert set(lora[half]) == {"attention", "gate", "up", "down"}
        assert more[half]["norm1"]["scale"] is weights[half]["norm1"]["scale"]


def test_a_descriptor_is_question_target_and_an_end(micro):
    token, role = descriptor(micro.batch, 6, eos_id=2)
    np.testing.assert_array_equal(token, [[7, 8, 9, 10, 2, 0]])
    np.testing.assert_array_equal(role, [[3, 3, 3, 3, 3, 0]])


def test_without_edits_the_taught_model_answers_alone(model, micro, known, logits, read):
    params = model[1]
    empty, weights = compiled.init(EDITOR, *model, 3), params["backbone"]
    plain = read(weights, known, micro.batch, micro.at)
    np.testing.assert_allclose(logits(empty, known), plain, atol=1e-5)
    lora = random_lora(params["editor"]["lora"])
    taught = params | {"editor": params["editor"] | {"lora": lora}}
    want = read(merge_lora(weights, lora), known, micro.batch, micro.at)
    np.testing.assert_allclose(logits(empty, known, taught), want, atol=1e-5)
    assert np.abs(want - plain).max() > 1e-2


def test_the_nearest_edit_stands_between_image_and_question(model, micro, known, logits, read):
    state = compiled.init(EDITOR, *model, 3)
    other = micro.batch.replace(token=micro.batch.token + 20)
    far = known | {"key": -known["key"]}
    for key, batch in ((far, other), (known, micro.batch)):
        state = compiled.edit(EDITOR, *model, state, key, batch)
    row = [1, 0, 0, 0, 0, 7, 8, 9, 10, 2, 7, 8, 9, 10]
    role = [1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4]
    written = micro.batch.replace(token=np.asarray([row]), role=np.asarray([role], np.int8))
    want = read(model[1]["backbone"], known, written, micro.at + 5)
    np.testing.assert_allclose(logits(state, known), want, atol=1e-5)

    text = replace(EDITOR, top_k=5).nearest_text(state, known["key"])  # of two
    assert text.token.shape == (1, 3 * 6)
    np.testing.assert_array_equal(text.token[0, :12], [7, 8, 9, 10, 2, 0, 27, 28, 29, 30, 2, 0])
    np.testing.assert_array_equal(text.role[0] > 0, [*([1] * 5 + [0]) * 2, *[0] * 6])
    picky = replace(EDITOR, top_k=2, threshold=0.9).nearest_text(state, known["key"])
    np.testing.assert_array_equal(picky.role[0] > 0, [*[1] * 5, *[0] * 7])


def test_lessons_show_own_texts_then_anothers_or_none(model, lesson):
    own = descriptor(lesson.edit.batch, 6, 2)
    for share in (0.0, 1.0):
        editor = replace(EDITOR, irrelevant_share=share)
        token, role = map(np.asarray, editor._texts(model[0], lesson, jax.random.key(0)))
        np.testing.assert_array_equal(token[:2], own.token)
        np.testing.assert_array_equal(role[:2], own.role)
        np.testing.assert_array_equal(token[2:], share * np.asarray(own.token)[::-1])
        np.testing.assert_array_equal(role[2:], share * np.asarray(own.role)[::-1])


def test_training_teaches_to_use_an_edit_and_to_leave_the_rest_alone(taught):
    before, after = taught(EDITOR)
    for name in ("edited", "retrieval"):
        assert after[name] < before[name], name
    assert all(np.isfinite(leaf) for leaf in after.values())
