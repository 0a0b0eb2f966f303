"""Edit streams: which entity is taught which false fact, and what is asked about it afterwards.

Every choice is made by a sha256 of the seed, the edit and what is chosen. So a seed gives the same
stream on every machine, a longer stream begins with the shorter one, and the streams of two seeds
are independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from liveedit_jax.data.facts import (
    FACTS,
    SOURCES,
    Entity,
    digest,
    group_by_subcategory,
    split_entities,
)
from liveedit_jax.data.portability import follow_up
from liveedit_jax.data.records import Record, SameImage
from liveedit_jax.data.templates import templates, text_questions
from liveedit_jax.data.third_drawing import ThirdDrawings, find_font
from liveedit_jax.data.views import another_view

TARGET_MOST = 32  # characters of a target, at most; 97% of all values are that short


def editable_facts(split: str) -> list[tuple[Entity, str]]:
    """List every (entity, fact) of a split that may be edited: all facts but the locked one."""
    return [
        (entity, fact)
        for entity in split_entities(split)
        for fact in FACTS
        if fact != entity.locked_fact
    ]


@cache
def target_values(split: str, fact: str) -> tuple[str, ...]:
    """Return the values of `fact` in a split that can be targets, each as often as it occurs."""
    values = (entity.facts[fact] for entity in split_entities(split))
    return tuple(value for value in values if len(value) <= TARGET_MOST)


def draw_target(split: str, entity: Entity, fact: str, *key: object) -> str:
    """Choose another entity's value of the same fact that differs from the entity's own."""
    own = entity.facts[fact].casefold()
    values = [value for value in target_values(split, fact) if value.casefold() != own]
    return _pick(values, *key, "target")


def _pick(values: Sequence, *key: object):
    return values[digest(*key) % len(values)]


@cache
def _probe_by_subcategory() -> dict[str, tuple[Entity, ...]]:
    return group_by_subcategory(split_entities("probe"))


def edit_stream(
    split: str,
    seed: int,
    n: int,
    data_dir: str | Path | None = None,
    image_size: int = 60,
    noto: str | Path | None = None,
) -> Iterator[Record]:
    """Generate the first `n` records of the stream (split, seed).

    Args:
        split: "editor_train", "dev" or "eval".
        seed: any integer.
        n: number of edits; each (entity, fact) is edited at most once.
        data_dir: where MojiEdit is or will be prepared (default: `default_data_dir()`).
        image_size: side of the drawings in pixels.
        noto: file of the font with the third drawings (default: `third_drawing.find_font`);
            without such a file, records have no third drawing.

    Raises:
        FileNotFoundError: the named font file does not exist.
        ValueError: an unknown split, the probe split (never edited), or more edits than it offers.
    """
    if split == "probe":
        raise ValueError("the probe split is never edited: use editor_train, dev or eval")
    pairs = editable_facts(split)
    if not 0 < n <= len(pairs):
        raise ValueError(f"n={n}: the {split} split offers 1 to {len(pairs)} edits")
    pairs.sort(key=lambda pair: digest("stream", seed, split, pair[0].file_key, pair[1]))
    font = find_font(noto)
    third = None if font is None else ThirdDrawings(font)
    return _make_records(split, seed, pairs[:n], data_dir, image_size, third)


def _make_records(split, seed, pairs, data_dir, image_size, third) -> Iterator[Record]:
    images = _load_drawings(split, data_dir, image_size)
    for entity, fact in pairs:
        record = _make_record(split, seed, entity, fact, images)
        drawn = None if third is None else third.png(entity, image_size)
        yield replace(record, third_drawing=drawn)


def _make_record(split: str, seed: int, entity: Entity, fact: str, images: dict) -> Record:
    key = ("record", seed, split, entity.file_key, fact)
    src = _pick(templates(fact, evaluation=False), *key, "src")
    probes = split_entities("probe")
    text_entity, text_fact = (
        _pick(probes, *key, "loc"),
        _pick(FACTS, *key, "loc fact"),
    )
    far, far_fact = _pick(probes, *key, "m_loc"), _pick(FACTS, *key, "m_loc fact")
    far_questions = templates(far_fact, False) + templates(far_fact, True)
    alike = _probe_by_subcategory().get(entity.facts["subcategory"], ())
    like = _pick(alike, *key, "look_alike") if alike else None
    others = [entity.locked_fact] + [f for f in FACTS if f not in (fact, entity.locked_fact)]
    target = draw_target(split, entity, fact, *key)
    return Record(
        src=src,
        rephrase=_pick(templates(fact, evaluation=True), *key, "rephrase"),
        alt=target,
        pred=entity.facts[fact],
        image=images[entity.id, "twemoji"],
        image_rephrase=another_view(images[entity.id, "twemoji"], *key, "view"),
        other_drawing=images[entity.id, "openmoji"],
        loc=_pick(text_questions(text_fact, text_entity.facts), *key, "loc question"),
        loc_ans=text_entity.facts[text_fact],
        m_loc=images[far.id, _pick(("twemoji", "openmoji"), *key, "m_loc source")],
        m_loc_q=_pick(far_questions, *key, "m_loc question"),
        m_loc_a=far.facts[far_fact],
        entity=entity.emoji,
        fact=fact,
        split=split,
        dataset="mojiedit",
        same_image=tuple(
            SameImage(
                fact=other,
                question=_pick(templates(other, evaluation=True), *key, "same_image", other),
                answer=entity.facts[other],
            )
            for other in others
        ),
        look_alike=None if like is None else images[like.id, "twemoji"],
        look_alike_a=None if like is None else like.facts[fact],
        port=follow_up(entity, fact, target, *key),
    )


def _load_drawings(split: str, data_dir, image_size: int) -> dict[tuple[int, str], bytes]:
    """Load the PNG bytes of the split's and the probe split's drawings, by (entity id, source)."""
    from liveedit_jax.data.mojiedit import build

    builder = build(data_dir, image_size)
    return {
        (int(example["id"]), source): bytes(data)
        for name in (split, "probe")
        for example in builder.as_data_source(name, decoders=_skip_decoding())
        for source, data in example["images"].items()
    }


def _skip_decoding() -> dict:
    """Return the TFDS decoders that keep images as PNG bytes."""
    import tensorflow_datasets as tfds

    skip = tfds.decode.SkipDecoding()
    return {"images": {"twemoji": skip, "openmoji": skip}}


@dataclass(frozen=True)
class RetentionQuestion:
    """A question about an entity that is never edited, and its true answer."""

    question: str
    answer: str
    image: bytes | None  # None: the question names the entity


def retention_questions(
    n: int, data_dir: str | Path | None = None, image_size: int = 60
) -> list[RetentionQuestion]:
    """Return `n` questions with a picture, then `n` without one: always the same, never edited.

    They ask for facts of probe entities, on drawings that pretraining has seen.
    """
    pairs = [(entity, fact) for entity in split_entities("probe") for fact in FACTS]
    pairs.sort(key=lambda pair: digest("retention", pair[0].file_key, pair[1]))
    images, found = _load_drawings("probe", data_dir, image_size), []
    for entity, fact in pairs[:n]:
        key = ("retention", entity.file_key, fact)
        sources = [source for source in SOURCES if source != entity.held_out]
        wordings = templates(fact, evaluation=True)
        picture = images[entity.id, _pick(sources, *key, "source")]
        found.append(
            RetentionQuestion(_pick(wordings, *key, "wording"), entity.facts[fact], picture)
        )
    for entity, fact in pairs[-n:]:
        wordings = text_questions(fact, entity.facts)
        wording = _pick(wordings, "retention", entity.file_key, fact, "text")
        found.append(RetentionQuestion(wording, entity.facts[fact], None))
    return found
