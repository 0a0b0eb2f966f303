"""Held-out facts enter no editor's training: no question, no target, no probe of it."""

import numpy as np
import pytest

from liveedit_jax.baselines.trained import LessonData
from liveedit_jax.config import EditMixture, EditorTrainConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.facts import (
    ENGLISH_FACTS,
    FACTS,
    HELD_OUT_FACTS,
    LANGUAGES,
    TRAINED_FACTS,
    split_entities,
)
from liveedit_jax.data.paraphrases import paraphrases
from liveedit_jax.data.templates import templates, text_questions
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.presets import BACKBONES
from liveedit_jax.types import Role

MIXTURE = EditMixture(
    any_fact_share=0.5, same_image_share=0.3, sibling_share=0.3, look_alike_share=0.3
)


@pytest.fixture(scope="module")
def data():
    recipe = EditorTrainConfig(batch_n=16)
    return EditingData(mojiedit_tokenizer(1024), BACKBONES["tiny"], recipe, MIXTURE)


def held_out_wordings():
    return {w for fact in HELD_OUT_FACTS for w in (*templates(fact, False), *paraphrases(fact))}


def texts(data, token, role, wanted):
    """The texts of one role, row by row."""
    rows = zip(token.reshape(-1, token.shape[-1]), role.reshape(-1, role.shape[-1]), strict=True)
    return {data.tokenizer.inner.decode(list(t[r == wanted])).strip() for t, r in rows}


def test_an_english_fact_and_three_languages_are_held_out():
    assert len(HELD_OUT_FACTS) == 4 and {*HELD_OUT_FACTS, *TRAINED_FACTS} == set(FACTS)
    assert len(set(HELD_OUT_FACTS) & set(ENGLISH_FACTS)) == 1
    assert len(set(HELD_OUT_FACTS) & set(LANGUAGES)) == 3


def test_no_batch_asks_for_one(data):
    asked, rows_n = set(), 0
    for step in range(40):
        batch = data.batch(step)
        asked |= texts(data, batch.token, batch.role, Role.PROMPT)
        rows_n += batch.token.shape[0] * batch.token.shape[1]
    assert rows_n == 40 * 4 * 16 and not asked & held_out_wordings()
    for fact in TRAINED_FACTS:  # all others are asked
        assert asked & {*templates(fact, False), *paraphrases(fact)}


def test_no_target_is_a_value_of_one(data):
    rng, everyone = np.random.default_rng(0), split_entities("editor_train")
    only = {
        value: {fact for e in everyone for fact in FACTS if e.facts[fact] == value}
        for value in {data._value(rng, "name") for _ in range(3_000)}
    }
    assert all(facts - set(HELD_OUT_FACTS) for facts in only.values())


def test_no_question_without_a_picture_asks_for_one(data):
    known = {
        q.strip() for e in data.entities for f in HELD_OUT_FACTS for q in text_questions(f, e.facts)
    }
    decode = data.tokenizer.inner.decode
    asked = {decode(prompt).strip() for prompt, _ in LessonData(data)._texts}
    assert asked and not asked & known
