"""Whose pictures pretraining aligns, shows and asks about, and what its questions are."""

from dataclasses import replace
from itertools import permutations

import jax
import numpy as np
import pytest
from small_model import SMALL, TINY

from liveedit_jax.config import PretrainConfig
from liveedit_jax.data.composed import (
    COMPOSED_SPLITS,
    STEPS,
    TWO_FACTS,
    caption_wordings,
    implications,
    is_held_out_scene,
    two_fact_wordings,
    two_step_answer,
)
from liveedit_jax.data.facts import FACTS, LANGUAGES, SOURCES, entities, pretraining_drawings
from liveedit_jax.data.images import drawing, normalise_pixels
from liveedit_jax.data.pretraining import CAPTION_MOST, PretrainingData
from liveedit_jax.data.templates import templates
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.types import Role

CFG = PretrainConfig(
    images_n=4,
    scenes_n=3,
    composed_share=0.5,
    view_share=0.3,
    pairs_n=8,
    collages_n=2,
    strange_n=2,
)
PAIR_OF = {
    wording: pair for pair in TWO_FACTS for wording in two_fact_wordings(*pair, evaluation=False)
}
CAPTIONS = {w for pair in permutations(LANGUAGES, 2) for w in caption_wordings(*pair, False)}


@pytest.fixture(scope="module")
def tokenizer():
    return mojiedit_tokenizer(1024)


@pytest.fixture
def data_of(tokenizer):
    def make(**changes):
        return PretrainingData(tokenizer, SMALL, replace(CFG, text_n=1, **changes))

    return make


@pytest.fixture
def looked_at(monkeypatch):
    """Every drawing that is read from here on, in order."""
    found, read = [], PretrainingData._drawing

    def spy(self, entity_id, source):
        found.append((entity_id, source))
        return read(self, entity_id, source)

    monkeypatch.setattr(PretrainingData, "_drawing", spy)
    return found


def questions(tokenizer, row) -> list[tuple[str, str]]:
    """The (prompt, answer) texts of a packed row."""
    found = []
    for segment in range(1, int(row["segment"].max()) + 1):
        texts = [
            tokenizer.decode(row["token"][(row["segment"] == segment) & (row["role"] == role)])
            for role in (Role.PROMPT, Role.ANSWER)
        ]
        found.append((texts[0].strip(), texts[1].strip()))
    return found


def question_of(prompt: str) -> str:
    """A question without what was stated before it and the request to say both facts."""
    return prompt.split("\n")[-1].removesuffix(STEPS).strip()


def test_a_batch_is_a_function_of_seed_and_step(data_of):
    first, again, other = data_of().batch_at(5), data_of().batch_at(5), data_of(seed=1).batch_at(5)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.rows.token != other.rows.token).any() and (first.pairs != other.pairs).any()
    assert (first.pairs != data_of().batch_at(6).pairs).any()


@pytest.mark.parametrize("cfg", [CFG, TINY.pretrain, PretrainConfig()])
def test_only_editor_train_entities_with_both_drawings_are_contrasted(tokenizer, cfg):
    data, met = PretrainingData(tokenizer, SMALL, cfg), set()
    allowed = {e.id for e in entities() if e.split == "editor_train" and e.held_out is None}
    for step in range(3 * len(allowed) // cfg.pairs_n):  # three epochs
        chosen = {entity.id for entity in data.contrast_entities(step)}
        assert len(chosen) == cfg.pairs_n and chosen <= allowed
        met |= chosen
    assert len(met) > 0.95 * len(allowed)


def test_the_pictures_of_the_aligning_term_are_theirs_alone(data_of, looked_at):
    data = data_of()
    for step in (0, 1, 80, 200):
        looked_at.clear()
        pairs = data.pairs(step)
        assert len(pairs) == 2 * CFG.pairs_n
        chosen = {entity.id for entity in data.contrast_entities(step)}
        assert {i for i, _ in looked_at} == chosen
        for i, source in looked_at:
            assert entities()[i].split == "editor_train" and entities()[i].held_out != source
        known = {drawing(i, source, 60).tobytes() for i in chosen for source in SOURCES}
        for picture in pairs[CFG.collages_n : CFG.pairs_n]:
            assert picture.tobytes() in known  # the other half and the collages are views


def test_only_editor_train_entities_are_shown_in_views(data_of):
    data, seen = data_of(images_n=24, view_share=1.0), set()
    for step in range(3):
        chosen, images = data.image_rows(step)[1], data.batch_at(step).rows.image
        assert len(images) == 24
        for image, (i, source) in zip(images, pretraining_drawings(chosen), strict=True):
            plain = normalise_pixels(drawing(i, source, 60), SMALL.vision)
            split = entities()[i].split
            assert np.array_equal(image, plain) == (split != "editor_train")
            seen.add(split)
    assert seen == {"editor_train", "dev", "eval", "probe"}


def test_a_held_out_drawing_is_never_shown(data_of, looked_at):
    assert all(entities()[i].held_out != source for i, source in pretraining_drawings(entities()))
    data, spared = data_of(scenes_n=60), 0
    for step in range(3):
        data.batch_at(step)
    for i, source in looked_at:
        assert entities()[i].held_out != source
        spared += entities()[i].held_out is not None
    assert spared > 10


def test_scenes_are_none_of_evaluation(data_of):
    data, rng = data_of(), np.random.default_rng(0)
    scenes = [data._scene(rng) for _ in range(500)]
    assert not any(is_held_out_scene(left, right) or left == right for left, right in scenes)
    assert {left.split for left, _ in scenes} == {"editor_train", "dev", "eval", "probe"}


def test_scene_rows_ask_about_the_half_they_name(data_of, tokenizer):
    data, rng = data_of(), np.random.default_rng(1)
    for _ in range(6):
        scene = data._scene(rng)
        row = data._scene_row(rng, scene)
        assert (row["role"] == Role.VISION).sum() == 2 * SMALL.vision_n
        for prompt, answer in questions(tokenizer, row):
            is_left, is_right = "left" in prompt.lower(), "right" in prompt.lower()
            assert is_left != is_right
            assert answer in scene[is_right].facts.values()


def test_compositions_and_captions_are_of_composed_splits_in_training_wordings(data_of, tokenizer):
    data, splits, captions_n = data_of(images_n=40, composed_share=1.0), set(), 0
    unasked = {wording for fact in FACTS for wording in templates(fact, True)}
    unasked |= {w for pair in TWO_FACTS for w in two_fact_wordings(*pair, True)}
    unasked |= {w for pair in permutations(LANGUAGES, 2) for w in caption_wordings(*pair, True)}
    for step in range(2):
        rows, chosen, _ = data.image_rows(step)
        for row, entity in zip(rows, [*chosen, *chosen], strict=True):
            asked = questions(tokenizer, row)
            composed = {question_of(p) for p, _ in asked} & {*PAIR_OF, *CAPTIONS}
            assert bool(composed) == (entity.split in COMPOSED_SPLITS)
            assert not {question_of(p) for p, _ in asked} & unasked
            for prompt, answer in asked:
                if prompt in CAPTIONS:
                    captions_n += 1
                    assert len(tokenizer.encode(" " + answer)) <= CAPTION_MOST
                    assert answer.startswith(f"This is {entity.facts['name']}: ")
            splits.add(entity.split)
    assert splits == {"editor_train", "dev", "eval", "probe"} and captions_n > 10


def test_two_steps_follow_the_stated_fact(data_of, tokenizer):
    data, counted = data_of(images_n=80, composed_share=1.0, stated_share=0.5), {}
    rows, chosen, _ = data.image_rows(0)
    for row, entity in zip(rows, [*chosen, *chosen], strict=True):
        for prompt, answer in questions(tokenizer, row):
            if question_of(prompt) not in PAIR_OF:
                continue
            first, second = PAIR_OF[question_of(prompt)]
            given, follows = entity.facts[first], entity.facts[second]
            kind = "steps" if prompt.endswith(STEPS) else "silent"
            if prompt.startswith("Fact: "):
                kind, (stated, _) = "stated", prompt.removeprefix("Fact: ").split("\n")
                (given,) = [
                    value
                    for value in implications(first, second)
                    if stated.endswith(" " + value) and answer.startswith(f"{value}; ")
                ]
                follows = implications(first, second)[given]
            assert answer == (follows if kind == "silent" else two_step_answer(given, follows))
            counted[kind] = counted.get(kind, 0) + 1
    assert min(counted[kind] for kind in ("steps", "silent", "stated")) >= 3


def test_captions_that_are_too_long_are_left_out(data_of):
    data, rng = data_of(), np.random.default_rng(0)
    found = [data._caption_questions(rng, entity) for entity in entities()[::20]]
    assert all(len(answer) <= CAPTION_MOST for one in found for _, answer in one)
    longest = max(entities(), key=lambda entity: len("".join(entity.facts.values())))
    assert 0 < sum(map(len, found)) and data._caption_questions(rng, longest) == []
