"""MojiEdit's portability probes: what follows from an edited fact by one fact more.

After "What is this called in German?" -> "Hund", "What does its German name mean in English?" is
"dog". Only facts that name their holder lead on: a version or a category says nothing else, and of
a name the further facts are those that the same picture's locality probe keeps.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from liveedit_jax.data.facts import LANGUAGES, Entity, digest, entities
from liveedit_jax.data.records import Port

_LEADS_TO = {"subcategory": "category", "short_name": "name"} | dict.fromkeys(LANGUAGES, "name")
_ASKED = {
    "subcategory": (
        "Which category does its subcategory belong to?",
        "In which category is its subcategory filed?",
    ),
    "short_name": (
        "What is the name of the emoji with its short name?",
        "Which emoji has its short name?",
    ),
}
_ASKED_OF_LANGUAGE = (
    "What does its {language} name mean in English?",
    "What is the English word for its {language} name?",
)


@cache
def _implied(fact: str) -> dict[str, str]:
    """Value of `fact` -> what it implies, where all emojis with that value agree on it."""
    found = defaultdict(set)
    for entity in entities():
        found[entity.facts[fact]].add(entity.facts[_LEADS_TO[fact]])
    return {value: next(iter(answers)) for value, answers in found.items() if len(answers) == 1}


def follow_up(entity: Entity, fact: str, target: str, *key: object) -> tuple[Port, ...]:
    """The question that `target` answers by one fact more; nothing where there is none.

    None is asked either where the edit leaves the answer what it was.

    Args:
        entity: whose fact is edited.
        fact: which.
        target: its new value.
        key: chooses the wording, by its hash.
    """
    if fact not in _LEADS_TO:
        return ()
    answer = _implied(fact).get(target)
    if answer is None or answer == _implied(fact).get(entity.facts[fact]):
        return ()
    wordings = _ASKED.get(fact, _ASKED_OF_LANGUAGE)
    wording = wordings[digest(*key, "port") % len(wordings)]
    return (Port(wording.format(language=LANGUAGES.get(fact)), answer, hops=1),)
