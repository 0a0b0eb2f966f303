"""MojiEdit's entities, splits and wordings are what the benchmark says."""

from collections import Counter

import pytest

from liveedit_jax.data.facts import (
    DRAWN_ALIKE,
    ENGLISH_FACTS,
    FACTS,
    HELD_OUT_FACTS,
    HELD_OUT_N,
    SPLIT_SIZES,
    TRAINED_FACTS,
    digest,
    entities,
    split_entities,
)
from liveedit_jax.data.paraphrases import paraphrases
from liveedit_jax.data.templates import templates, text_questions


def test_counts():
    assert len(entities()) == 1836 and len(FACTS) == 13 and len(ENGLISH_FACTS) == 5
    for split, n in SPLIT_SIZES.items():
        assert len(split_entities(split)) == n
    assert sum(entity.held_out is not None for entity in entities()) == HELD_OUT_N
    assert not any(entity.held_out for entity in split_entities("eval"))
    assert [entity.id for entity in entities()] == list(range(1836))


def test_four_facts_are_held_out_of_editor_training_one_of_them_english():
    assert len(set(HELD_OUT_FACTS)) == 4
    assert len(set(HELD_OUT_FACTS) & set(ENGLISH_FACTS)) == 1
    assert set(TRAINED_FACTS) == set(FACTS) - set(HELD_OUT_FACTS)


def test_emojis_drawn_alike_are_one_entity():
    keys = {entity.file_key for entity in entities()}
    for pair in DRAWN_ALIKE.items():
        assert len(keys.intersection(pair)) == 1


def test_every_fact_has_a_value_and_one_is_locked():
    for entity in entities():
        assert set(entity.facts) == set(FACTS) and all(v.strip() for v in entity.facts.values())
        assert entity.locked_fact in FACTS


def test_splits_are_stratified_by_subcategory():
    total = Counter(entity.facts["subcategory"] for entity in entities())
    for split, n in SPLIT_SIZES.items():
        seen = Counter(entity.facts["subcategory"] for entity in split_entities(split))
        for name, of in total.items():
            assert abs(seen[name] - of * n / 1836) < 2


def test_training_and_evaluation_wordings_do_not_meet():
    for fact in FACTS:
        train, evaluation = templates(fact, False), templates(fact, True)
        assert len(train) + len(evaluation) >= 6 and len(evaluation) >= 2
        assert not set(train) & set(evaluation)
        assert not set(paraphrases(fact)) & {*train, *evaluation}
        assert text_questions(fact, entities()[0].facts)


def test_digest_is_the_same_everywhere():
    assert digest("a", 1) == 9484037261928657086
    assert digest("a", 1) != digest("a1")


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="unknown split 'test'"):
        split_entities("test")
