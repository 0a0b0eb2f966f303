"""The questions that measure a base model; every random choice is a sha256, so it never changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple

from liveedit_jax.data.composed import (
    COMPOSED_SPLITS,
    SIDES,
    STEPS,
    TWO_FACTS,
    caption,
    caption_wordings,
    is_held_out_scene,
    side_wordings,
    two_fact_wordings,
    two_step_answer,
)
from liveedit_jax.data.facts import (
    ENGLISH_FACTS,
    FACTS,
    LANGUAGES,
    SOURCES,
    Entity,
    digest,
    entities,
    split_entities,
)
from liveedit_jax.data.templates import templates, text_questions

Picture = tuple[int, str]  # entity id and source of a drawing
EntityDrawings = Sequence[tuple[Entity, str]]  # drawings: entities and sources

PAIRS_N = 4  # two-fact questions about one drawing, each answered in two steps and in one


class KnowledgeQuestion(NamedTuple):
    """One question, and the part and groups of the measurement that it counts in."""

    pictures: tuple[Picture, ...]  # from left to right; none: text only
    prompt: str
    answer: str
    part: str
    groups: tuple[str, ...]


def _pick(options: Iterable, n: int, *key: object) -> list:
    """Choose `n` options by their digests with the key."""
    return sorted(options, key=lambda option: digest(*key, option))[:n]


def _pick_one(options: Sequence, *key: object):
    return options[digest(*key) % len(options)]


def sample(chosen: Iterable[Entity], n: int | None) -> list[Entity]:
    """Choose `n` of the entities (None: all); a larger sample begins with the smaller one."""
    return sorted(chosen, key=lambda entity: digest("asked", entity.file_key))[:n]


def drawings(chosen: Iterable[Entity], held_out: bool) -> list[tuple[Entity, str]]:
    """List (entity, source) of the drawings used in pretraining, or of those held out of it."""
    return [
        (entity, source)
        for entity in chosen
        for source in SOURCES
        if (entity.held_out == source) == held_out
    ]


def has_learned_compositions(entity: Entity) -> bool:
    """Return whether pretraining has two-fact questions and captions of this entity."""
    return entity.split in COMPOSED_SPLITS


def _language(*facts: str) -> str:
    """Return the group of a question: English facts and names in languages are counted apart."""
    return "english" if set(facts) <= set(ENGLISH_FACTS) else "languages"


def fact_questions(shown: EntityDrawings, evaluation: bool, part: str) -> list[KnowledgeQuestion]:
    """Ask for every fact of every drawing, in evaluation-only or in training wordings."""
    found = []
    for entity, source in shown:
        for fact in FACTS:
            wording = _pick_one(templates(fact, evaluation), entity.file_key, source, fact)
            pictures, groups = ((entity.id, source),), (_language(fact), fact)
            found.append(KnowledgeQuestion(pictures, wording, entity.facts[fact], part, groups))
    return found


def two_fact_questions(shown: EntityDrawings, part: str) -> list[KnowledgeQuestion]:
    """Ask `PAIRS_N` questions that combine two facts of each drawing.

    Each is asked twice: part "two_steps_..." states the first fact in its answer, part
    "silent_..." gives the second fact alone.
    """
    found = []
    for entity, source in shown:
        key = entity.file_key, source
        for first, second in _pick(TWO_FACTS, PAIRS_N, "two facts", *key):
            wordings = two_fact_wordings(first, second, evaluation=True)
            question = _pick_one(wordings, *key, first, second)
            groups = _language(first, second), "all"
            given, follows = entity.facts[first], entity.facts[second]
            for name, prompt, answer in (
                ("two_steps", f"{question} {STEPS}", two_step_answer(given, follows)),
                ("silent", question, follows),
            ):
                picture = entity.id, source
                found.append(
                    KnowledgeQuestion((picture,), prompt, answer, f"{name}_{part}", groups)
                )
    return found


def scene_questions(n: int) -> list[KnowledgeQuestion]:
    """Ask for two English facts and one language name of both sides of `n` unseen scenes.

    The words for the side are evaluation-only. The question about that side uses a training
    wording (part `scenes`) or an evaluation-only one (part `scenes_evaluation_wordings`).
    """
    of, scenes_n = split_entities("eval"), 0
    found: list[KnowledgeQuestion] = []
    for i in count():
        if scenes_n == n:
            return found
        scene = tuple(_pick_one(of, "scene", i, side) for side in SIDES)
        if scene[0] == scene[1] or not is_held_out_scene(*scene):
            continue
        scenes_n += 1
        pictures = tuple(
            (entity.id, _pick_one(SOURCES, "of a scene", entity.id, i)) for entity in scene
        )
        for side, entity in zip(SIDES, scene, strict=True):
            facts = _pick(ENGLISH_FACTS, 2, i, side) + _pick(LANGUAGES, 1, i, side)
            for fact in facts:
                for part, evaluation in (("scenes", False), ("scenes_evaluation_wordings", True)):
                    inner = _pick_one(templates(fact, evaluation), i, side, fact)
                    prompt = _pick_one(side_wordings(inner, side, evaluation=True), side, i, fact)
                    groups = (_language(fact),)
                    found.append(
                        KnowledgeQuestion(pictures, prompt, entity.facts[fact], part, groups)
                    )
    return found


def text_only_questions(n: int | None) -> list[KnowledgeQuestion]:
    """Ask for every fact of `n` entities (None: all) by name, without a picture."""
    found = []
    for entity in sample(entities(), n):
        for fact in FACTS:
            wording = _pick_one(text_questions(fact, entity.facts), "text", entity.file_key, fact)
            found.append(
                KnowledgeQuestion((), wording, entity.facts[fact], "text_only", (_language(fact),))
            )
    return found


def caption_questions(shown: EntityDrawings, part: str) -> list[KnowledgeQuestion]:
    """Ask for a caption of each drawing, with its names in two languages."""
    found = []
    for entity, source in shown:
        first, second = _pick(LANGUAGES, 2, "caption", entity.file_key, source)
        wordings = caption_wordings(first, second, evaluation=True)
        wording = _pick_one(wordings, entity.file_key, source)
        answer, picture = caption(entity.facts, first, second), (entity.id, source)
        found.append(KnowledgeQuestion((picture,), wording, answer, f"captions_{part}", ("all",)))
    return found
