"""Questions of two facts, scenes and captions: their wordings, and what follows from what."""

from itertools import permutations

import pytest

from liveedit_jax.data.composed import (
    SIDES,
    TWO_FACTS,
    caption,
    caption_wordings,
    implications,
    is_held_out_scene,
    side_wordings,
    two_fact_wordings,
    two_step_answer,
)
from liveedit_jax.data.facts import FACTS, LANGUAGES, entities, split_entities
from liveedit_jax.data.paraphrases import paraphrases
from liveedit_jax.data.templates import templates


def both(wordings, *words):
    return set(wordings(*words, evaluation=False)), set(wordings(*words, evaluation=True))


def test_composed_training_and_evaluation_wordings_do_not_meet():
    for pair in TWO_FACTS:
        train, evaluation = both(two_fact_wordings, *pair)
        assert train and evaluation and not train & evaluation
    for side in SIDES:
        train, evaluation = both(side_wordings, "What is it?", side)
        assert train and evaluation and not train & evaluation
        assert all(side in wording.lower() for wording in train | evaluation)
    for pair in permutations(LANGUAGES, 2):
        train, evaluation = both(caption_wordings, *pair)
        assert train and evaluation and not train & evaluation


def test_composed_wordings_are_no_wordings_of_single_facts():
    single = {w for fact in FACTS for evaluation in (0, 1) for w in templates(fact, evaluation)}
    single |= {wording for fact in FACTS for wording in paraphrases(fact)}
    for pair in TWO_FACTS:
        train, evaluation = both(two_fact_wordings, *pair)
        assert not (train | evaluation) & single


def test_what_follows_from_a_fact_is_the_same_for_all_who_have_it():
    for first, second in TWO_FACTS:
        known = implications(first, second)
        assert known
        for entity in entities():
            value = entity.facts[first]
            assert known.get(value, entity.facts[second]) == entity.facts[second]
    assert two_step_answer("Hund", "dog") == "Hund; dog"


def test_a_tenth_of_scenes_is_kept_for_evaluation():
    some = split_entities("eval")[::8]
    kept = [is_held_out_scene(left, right) for left, right in permutations(some, 2)]
    assert 0.07 < sum(kept) / len(kept) < 0.13
    turned = [is_held_out_scene(right, left) for left, right in permutations(some, 2)]
    assert kept != turned  # left and right matter


@pytest.mark.parametrize("pair", [("de", "fr"), ("ru", "tr")])
def test_a_caption_names_every_english_fact_and_two_languages(pair):
    facts = entities()[500].facts
    text = caption(facts, *pair)
    english = ("name", "category", "subcategory", "version", "short_name")
    assert all(facts[fact] in text for fact in (*english, *pair))
