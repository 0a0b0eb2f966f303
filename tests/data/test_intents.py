"""Intents: their text can be used, what is drawn differs, and what is held out stays out."""

import ast
from pathlib import Path

import numpy as np
import pytest

from experiments.studies import photograph_questions
from liveedit_jax.data.facts import FACTS
from liveedit_jax.data.intents import (
    ANSWERS_MIN,
    FOLDER,
    INTENTS_HELD_OUT_EVERY,
    TOPICS,
    WORDINGS_HELD_OUT_EVERY,
    WORDINGS_MIN,
    draw_intents,
    intents,
    normalise_wording,
    read_intents,
    suitable_intents,
)
from liveedit_jax.data.templates import templates

BLOCK = """# eye_colour
near: colour
answers: @colours | pale
  yellow | with a dark ring
What colour are its eyes?
Eye colour?
Its eyes, what color?
Name the colour of the eyes.
Which color do the eyes have?
and the eyes are what colour
What hue are the eyes?
Tell me the colour of its eyes.
"""
OTHER = BLOCK.replace("eye", "ear").replace("Eye", "Ear")


@pytest.fixture
def read(tmp_path):
    def read(text, answers="# colours\nred | blue\ngreen\n"):
        for topic in TOPICS:
            (tmp_path / f"{topic}.txt").write_text("")
        (tmp_path / "animals.txt").write_text(text)
        (tmp_path / "answers.txt").write_text(answers)
        return read_intents(tmp_path)

    return read


def drawn_of(topic, part="training", n=4, times=20, **share):
    rng = np.random.default_rng(3)
    return [draw_intents(rng, topic, n, part=part, **share) for _ in range(times)]


def test_the_text_holds_what_training_needs():
    found = intents()
    assert len(found) >= 400
    wordings = [normalise_wording(wording) for intent in found for wording in intent.wordings]
    assert all(wordings) and len(set(wordings)) == len(wordings)
    for intent in found:
        assert len(intent.wordings) >= WORDINGS_MIN and len(intent.answers) >= ANSWERS_MIN
        assert all(text.isascii() for text in (*intent.wordings, *intent.answers))
        assert not any(mark in wording for wording in intent.wordings for mark in '"`|')
    assert sum(not intent.near for intent in found) < 10
    assert {file.stem for file in FOLDER.glob("*.txt")} == {*TOPICS, "answers"}
    assert {intent.topic for intent in found} == set(TOPICS)


def test_no_wording_is_one_that_tests_ask():
    asked = [text for fact in FACTS for text in templates(fact, evaluation=True)]
    study = ast.parse(Path(photograph_questions.__file__).read_text())
    asked += [node.value for node in ast.walk(study) if isinstance(node, ast.Constant)]
    kept_out = {normalise_wording(text) for text in asked if isinstance(text, str)}
    assert kept_out.isdisjoint(
        normalise_wording(w) for intent in intents() for w in intent.wordings
    )


def test_a_block_is_read(read):
    first, second = read(BLOCK + "\n" + OTHER)
    assert (first.name, second.name, first.topic) == ("eye_colour", "ear_colour", "animals")
    assert first.answers == ("red", "blue", "green", "pale", "yellow", "with a dark ring")
    assert first.wordings[:2] == ("What colour are its eyes?", "Eye colour?")
    assert len(first.wordings) == 8
    assert first.near == second.near == {"colour"} and not first.never_with


@pytest.mark.parametrize(
    "text, says",
    [
        (BLOCK, "only one intent has the label 'colour' in near"),
        (BLOCK + OTHER.replace("ear_", "eye_"), "eye_colour in animals.txt is in animals.txt, too"),
        (BLOCK + BLOCK.replace("# eye", "# ear"), "ear_.* eye_colour asks 'What colour are its"),
        (BLOCK + "EYE COLOUR\n", "eye_colour asks 'EYE COLOUR', too"),
        (BLOCK.replace("@colours | ", "") + OTHER, "has 3 answers of at least 6"),
        (BLOCK.replace("@colours", "@shapes") + OTHER, "no answers are called 'shapes'"),
        ("".join(BLOCK.splitlines(True)[:7]) + OTHER, "has 3 wordings of at least 6"),
        (BLOCK + 'What is "eye"?\n' + OTHER, "has a quote mark or a bar"),
        (BLOCK + "What is 'eye'?\n" + OTHER, "has a quote mark or a bar"),
        (BLOCK.replace("yellow", "pale " * 26) + OTHER, "has an answer of more than 25 words"),
    ],
)
def test_text_that_cannot_be_used_is_named(read, text, says):
    with pytest.raises(ValueError, match=says):
        read(text)


def test_apostrophes_are_no_quote_marks(read):
    assert read(BLOCK + "What's the goats' eye colour?\n" + OTHER)


def test_a_tenth_of_the_intents_and_a_fifth_of_the_wordings_are_held_out():
    kept = [intent for intent in intents() if not intent.held_out]
    held_out = 1 - len(kept) / len(intents())
    assert abs(held_out - 1 / INTENTS_HELD_OUT_EVERY) < 0.03
    away = sum(len(intent.held_out_wordings) for intent in kept)
    assert (
        abs(away / sum(len(intent.wordings) for intent in kept) - 1 / WORDINGS_HELD_OUT_EVERY)
        < 0.03
    )


@pytest.mark.parametrize("topic", TOPICS)
def test_what_is_drawn_suits_the_topic_and_differs(topic):
    for drawn in drawn_of(topic, n=8):
        assert {asked.intent.topic for asked in drawn} <= {topic, *TOPICS[topic]}
        assert len({asked.intent.name for asked in drawn}) == 8
        assert len({asked.answer.casefold() for asked in drawn}) == 8
        labels = [label for asked in drawn for label in asked.intent.never_with]
        assert len(set(labels)) == len(labels)
        for asked in drawn:
            assert asked.edit != asked.rephrase
            assert {asked.edit, asked.rephrase} <= set(asked.intent.training_wordings)
            assert asked.answer in asked.intent.answers and not asked.intent.held_out


def test_held_out_parts():
    for drawn in drawn_of("animals", "wordings"):
        for asked in drawn:
            assert asked.edit in asked.intent.training_wordings
            assert asked.rephrase in asked.intent.held_out_wordings
    for drawn in drawn_of("animals", "intents"):
        assert all(asked.intent.held_out and asked.edit != asked.rephrase for asked in drawn)
    assert not set(suitable_intents("animals")) & set(suitable_intents("animals", "intents"))


def test_near_intents_come_by_their_share():
    def near_n(share):
        drawn = drawn_of("food", n=2, times=60, near_share=share)
        return sum(bool(a.intent.near & b.intent.near) for a, b in drawn)

    assert near_n(0.0) < 15 and near_n(1.0) > 55


def test_draws_repeat_and_faults_are_named():
    assert drawn_of("art") == drawn_of("art")
    with pytest.raises(ValueError, match="no topic 'stones'; topics: general, living"):
        draw_intents(np.random.default_rng(0), "stones", 2)
    with pytest.raises(ValueError, match="no 500 intents about games go together in intents"):
        draw_intents(np.random.default_rng(0), "games", 500, part="intents")
