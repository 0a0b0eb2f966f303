"""RECIPE: prompts before the questions that resemble an edit more than the sentinel."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax import editors as compiled
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.baselines.recipe import (
    KNOWLEDGE_ROLES,
    PromptRecipe,
    RecipeEditor,
    make_prompt,
    represent,
)
from liveedit_jax.baselines.trained import LessonBatch, init_state, make_lesson
from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.types import Role

TEACHING = PromptRecipe(steps_n=30, warmup_steps=1, learning_rate=1e-2)
SMALL = {"width": 8, "write_width": 8, "prompt_n": 2}
EDITOR = RecipeEditor(recipe=TEACHING, **SMALL)


@pytest.fixture(scope="module")
def model(micro):
    own = init_state(EDITOR, micro.backbone, micro.params["backbone"]).params
    return micro.backbone, micro.params | {"editor": own}


@pytest.fixture(scope="module")
def logits(model, micro):
    """The edited model's logits of a question, compiled once."""
    run = jax.jit(EDITOR.logits, static_argnums=0)
    return lambda state, known: np.asarray(run(*model, state, known, micro.batch, micro.at))


@pytest.fixture(scope="module")
def asked(model, micro):
    """Encode the request's own question, and make the memory after its edit."""
    shown = compiled.encode_image(EDITOR, *model, micro.batch.image)
    known = compiled.encode(EDITOR, *model, micro.batch, shown)
    state = compiled.init(EDITOR, *model, 3)
    return known, compiled.edit(EDITOR, *model, state, known, micro.batch)


def with_key(state, known, scale):
    """The memory with a key along, or against, a question's query."""
    return state | {"key": state["key"].at[0].set(scale * known["query"][0])}


def test_the_sentinel_decides_and_a_miss_is_exactly_the_unedited_model(model, micro, asked, logits):
    backbone, params = model
    known, state = asked

    @jax.jit
    def unedited(weights):
        hidden = backbone.lower_from_features(weights, micro.batch, known["seen"])
        return backbone.upper(weights, hidden, micro.batch, micro.at)

    plain = np.asarray(unedited(params["backbone"]))
    empty = compiled.init(EDITOR, *model, 3)
    np.testing.assert_array_equal(logits(empty, known), plain)
    np.testing.assert_array_equal(logits(with_key(state, known, -1e3), known), plain)
    assert np.abs(logits(with_key(state, known, 1e3), known) - plain).max() > 1e-3
    score = float(known["query"][0] @ state["key"][0]) / 8**0.5
    for threshold, same in ((score + 1e-3, True), (score - 1e-3, False)):
        found = logits(state, known | {"threshold": jnp.asarray([threshold])})
        assert np.array_equal(found, plain) == same


def test_a_hit_is_the_model_with_its_prompt_before_the_question(model, micro, asked, logits):
    (backbone, params), (known, state) = model, asked
    weights, batch = params["backbone"], micro.batch

    @jax.jit
    def textbook(prompt):
        x = backbone.embed(weights, batch, known["seen"])
        x = jnp.concatenate([x[:, :5], prompt, x[:, 5:]], axis=1)  # behind BOS and image
        role = np.concatenate([np.ones((1, 2), np.int8), batch.role], axis=1)
        longer = batch.replace(token=np.zeros_like(role, np.int32), role=role)
        hidden, _ = backbone.run_lower(weights, x, backbone.context(longer))
        return backbone.upper(weights, hidden, longer, micro.at + 2)

    found = logits(with_key(state, known, 1e3), known)
    np.testing.assert_allclose(found, textbook(state["prompt"][:1]), atol=1e-5)


def test_a_prompt_goes_on_descending_where_the_network_alone_does_not_say_it(model, micro, asked):
    (backbone, params), (known, _) = model, asked
    loss = {}
    for steps_n in (0, 50):
        editor = replace(EDITOR, refine_n=steps_n)
        state = compiled.init(editor, *model, 3)
        state = compiled.edit(editor, *model, state, known, micro.batch)
        read = jax.jit(editor.logits_with_prompt, static_argnums=0)
        made = read(backbone, params["backbone"], micro.batch, known["seen"], state["prompt"][:1])
        loss[steps_n] = float(target_loss(backbone, made, micro.batch))
    assert loss[50] < loss[0] / 2


def test_a_question_without_a_picture_has_a_zero_image_part(model, micro):
    text = micro.batch.replace(role=np.where(micro.batch.role == 2, 3, micro.batch.role))
    shown = compiled.encode_image(EDITOR, *model, micro.batch.image)
    one, two = (compiled.encode(EDITOR, *model, text, seen) for seen in (shown, 2 * shown))
    np.testing.assert_array_equal(one["query"], two["query"])
    assert np.isfinite(one["threshold"]).all()


def test_networks_against_numpy(model):
    own = jax.tree.map(np.asarray, model[1]["editor"])
    x = np.random.default_rng(0).normal(size=(3, 3 * 16 * len(KNOWLEDGE_ROLES))).astype(np.float32)

    def linear(p, x):
        return x @ p["kernel"] + p["bias"]

    def represented(p, x):
        read = linear(p["read"], x)
        return read + np.maximum(linear(p["mix"], read), 0)

    want = represented(own["knowledge"], x)
    np.testing.assert_allclose(represent(own["knowledge"], x), want, atol=1e-5)
    target = x[:, : 3 * 16]

    def one(x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)

    want = linear(own["prompt"]["write"], one(represented(own["prompt"], target)))
    want = one(want.reshape(3, 2, 16))
    np.testing.assert_allclose(make_prompt(own["prompt"], target, 2), want, atol=1e-5)


def test_retrieval_terms_by_hand():
    rng, n = np.random.default_rng(1), 3
    query, knowledge = rng.normal(size=(5 * n, 8)), rng.normal(size=(n, 8))
    threshold = rng.normal(size=5 * n)
    found = jax.jit(EDITOR.retrieval_terms)(
        *(jnp.asarray(x, jnp.float32) for x in (query, threshold, knowledge))
    )
    own, spared, unrelated = [], [], []
    for i in range(5 * n):
        p = np.exp(np.append(knowledge @ query[i] / 8**0.5, threshold[i]))
        if i >= 3 * n:
            unrelated.append(-np.log(p[-1] / p.sum()))
        else:
            own.append(-np.log(p[i % n] / p.sum()))
            spared.append(-np.log(p[-1] / (p.sum() - p[i % n])))
    want = {"own": own, "spared": spared, "unrelated": unrelated}
    for name, terms in want.items():
        np.testing.assert_allclose(found[name], np.mean(terms), rtol=1e-5)


def test_training_teaches_to_answer_from_the_memory_and_to_leave_the_rest_alone(taught):
    before, after = taught(EDITOR)
    for name in ("edited", "own", "spared", "unrelated"):
        assert after[name] < before[name], name
    assert all(np.isfinite(leaf) for leaf in after.values())


def test_lessons_of_pictures_in_tiles_keep_where_their_features_are():
    role = np.tile(np.asarray([1, 2, 2, 3, 4], np.int8), (4, 2, 1))
    place = np.where(role == Role.VISION, np.arange(40).reshape(role.shape), 0).astype(np.int32)
    picture = np.zeros((4, 2), np.int32)
    rows = EditingBatch(np.ones_like(place), role, picture, place)
    lesson = make_lesson(LessonBatch(rows, rows.token[0], role[0]), jnp.ones((1, 40, 8)))
    for part, want in zip(lesson[:4], place, strict=True):
        np.testing.assert_array_equal(part.batch.place, want)
    assert not np.asarray(lesson.text_locality.batch.place).any()
    assert jax.tree.structure(lesson[0]) == jax.tree.structure(lesson[-1])
