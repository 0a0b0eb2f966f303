"""MojiEdit's portability probes: questions that need one more fact than the edited one.

After the edit "What is this called in German?" -> "Hund", the question "What does its German name
mean in English?" has the answer "dog". Only facts that identify an entity lead further: nothing
follows from a version or a category, and what follows from an English name are the facts that the
locality probe of the same picture expects to stay.
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
    """Return the one-hop question that follows from an edit, or nothing.

    Nothing is returned where no fact follows, or where the edit does not change the answer.

    Args:
        entity: the edited entity.
        fact: the edited fact.
        target: its new value.
        key: its hash chooses the wording.
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
