"""MojiEdit's portability probes: what follows from an edited fact by one fact more.

After "What is this called in German?" -> "Hund", "What does its German name mean in English?" is
"dog". Only facts that name their holder lead on: a version or a category says nothing else, and of
a name the further facts are those that the same picture's locality probe keeps.
"""

from __future__ import annotations

from liveedit_jax.data.composed import implications
from liveedit_jax.data.facts import LANGUAGES, Entity, digest
from liveedit_jax.data.records import PortabilityProbe

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


def follow_up(entity: Entity, fact: str, target: str, *key: object) -> tuple[PortabilityProbe, ...]:
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
    answers = implications(fact, _LEADS_TO[fact])
    answer = answers.get(target)
    if answer is None or answer == answers.get(entity.facts[fact]):
        return ()
    wordings = _ASKED.get(fact, _ASKED_OF_LANGUAGE)
    wording = wordings[digest(*key, "port") % len(wordings)]
    return (PortabilityProbe(wording.format(language=LANGUAGES.get(fact)), answer, hops=1),)
