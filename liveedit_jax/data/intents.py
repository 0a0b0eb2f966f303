"""Intents: several hundred things to ask about a picture's subject, each in many wordings.

Their texts are in `intent_texts`, one file for each topic. A block of a file is an intent:

    # eye_colour
    near: colour
    never with: look
    answers: @colours | pale yellow
      with a dark ring
    What colour are its eyes?
    Eye colour?

Intents that share a label after `near:` ask almost the same; they are each other's hardest
negatives. Intents that share a label after `never with:` may have the same answer and are never
asked about the same subject. `@colours` stands for all answers below `# colours` in answers.txt. An
indented line continues the line above. All other lines are wordings.

For evaluation, a tenth of the intents are held out of training, and a fifth of the wordings of the
others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from liveedit_jax.data.facts import digest

FOLDER = Path(__file__).parent / "intent_texts"
TOPICS = {  # each with the more general topics whose intents suit it, too
    "general": (),
    "living": ("general",),
    "animals": ("living", "general"),
    "plants": ("living", "general"),
    "things": ("general",),
    "food": ("things", "general"),
    "vehicles": ("things", "general"),
    "buildings": ("things", "general"),
    "tools": ("things", "general"),
    "clothes": ("things", "general"),
    "instruments": ("things", "general"),
    "signs": ("things", "general"),
    "symbols": ("things", "general"),
    "art": ("things", "general"),
    "games": ("things", "general"),
    "people": ("general",),
    "sports": ("general",),
    "scenes": ("general",),
    "drawings": ("general",),
}
INTENTS_HELD_OUT_EVERY = 10  # one intent in so many is never trained on
WORDINGS_HELD_OUT_EVERY = 5  # one wording in so many of the other intents
OWN_SHARE = 0.5  # of a topic's draws that are made from its own intents alone
WORDINGS_MIN, ANSWERS_MIN, ANSWER_WORDS_MAX = 6, 6, 25
_QUOTE = re.compile(r"[\"`]|(^|\W)'")  # an apostrophe has a letter before it

Part = Literal["training", "wordings", "intents"]


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One thing to ask about a subject.

    Args:
        name: unique among all topics.
        topic: a key of `TOPICS`.
        wordings: the questions that ask it.
        answers: plausible ones for any subject.
        near: labels; intents that share one ask almost the same.
        never_with: labels; intents that share one may have the same answer.
    """

    name: str
    topic: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...]
    near: frozenset[str] = frozenset()
    never_with: frozenset[str] = frozenset()

    @property
    def held_out(self) -> bool:
        """Return whether the intent is never trained on."""
        return digest("intent", self.name) % INTENTS_HELD_OUT_EVERY == 0

    @cached_property
    def held_out_wordings(self) -> tuple[str, ...]:
        """Return the wordings that are not trained on although the intent is."""
        return tuple(
            w for w in self.wordings if digest("wording", w) % WORDINGS_HELD_OUT_EVERY == 0
        )

    @cached_property
    def training_wordings(self) -> tuple[str, ...]:
        """Return the wordings that are not held out."""
        return tuple(w for w in self.wordings if w not in self.held_out_wordings)

    def wordings_for(self, part: Part) -> tuple[Sequence[str], Sequence[str]]:
        """Return the wordings for edits and for rephrases in a part; none if it lacks the intent.

        "training" has the training wordings of the training intents. "wordings" has the same edits,
        with held-out wordings as rephrases. "intents" has all wordings of the held-out intents.
        """
        if self.held_out != (part == "intents"):
            return (), ()
        if part == "intents":
            return self.wordings, self.wordings
        held_out = part == "wordings"
        return (
            self.training_wordings,
            self.held_out_wordings if held_out else self.training_wordings,
        )


class IntentEdit(NamedTuple):
    """An edit that asks an intent: a wording, another wording, and an answer."""

    intent: Intent
    edit: str
    rephrase: str
    answer: str


def normalise_wording(wording: str) -> str:
    """Normalise a wording: no capitals, no punctuation. Two wordings must differ after this."""
    return " ".join(re.findall(r"\w+", wording.casefold().replace("'", "")))


def _read_blocks(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a file's blocks: the name after the #, and the lines, continued ones joined."""
    for block in re.split(r"^# ", file.read_text("ascii"), flags=re.MULTILINE)[1:]:
        name, *lines = block.replace("\n  ", " | ").split("\n")
        yield name.strip(), [line.strip() for line in lines if line.strip()]


def _split_items(text: str) -> list[str]:
    """Split a text at its bars."""
    return [item.strip() for item in text.split("|") if item.strip()]


def _parse_intent(
    name: str, topic: str, lines: Sequence[str], pools: dict[str, list[str]]
) -> Intent:
    fields = dict.fromkeys(("near", "never with", "answers"), "")
    wordings = []
    for line in lines:
        field, colon, text = line.partition(": ")
        if colon and field in fields:
            fields[field] = text
        else:
            wordings.append(line)
    answers: list[str] = []
    for item in _split_items(fields["answers"]):
        if item.startswith("@") and item[1:] not in pools:
            raise ValueError(f"{name} in {topic}.txt: no answers are called {item[1:]!r}")
        answers += pools[item[1:]] if item.startswith("@") else [item]
    return Intent(
        name=name,
        topic=topic,
        wordings=tuple(wordings),
        answers=tuple(dict.fromkeys(answers)),
        near=frozenset(fields["near"].split()),
        never_with=frozenset(fields["never with"].split()),
    )


def _find_fault(intent: Intent) -> str | None:
    """Return what is wrong with a single intent, or None."""
    if len(intent.wordings) < WORDINGS_MIN:
        return f"has {len(intent.wordings)} wordings of at least {WORDINGS_MIN}"
    if len(intent.answers) < ANSWERS_MIN:
        return f"has {len(intent.answers)} answers of at least {ANSWERS_MIN}"
    for wording in intent.wordings:
        if _QUOTE.search(wording) or "|" in wording:
            return f"has a quote mark or a bar in {wording!r}"
    for answer in intent.answers:
        if len(answer.split()) > ANSWER_WORDS_MAX:
            return f"has an answer of more than {ANSWER_WORDS_MAX} words: {answer!r}"
    if not intent.held_out and len(intent.training_wordings) < 2:
        return "has fewer than two wordings to train on, the others are held out: add some"
    return None


def _check(found: Sequence[Intent]) -> None:
    """Check all intents; raise an error that names the first unusable one."""
    names: dict[str, str] = {}  # to topics
    asked_by: dict[str, str] = {}
    used: dict[str, Counter[str]] = {"near": Counter(), "never_with": Counter()}
    for intent in found:
        where = f"{intent.name} in {intent.topic}.txt"
        if fault := _find_fault(intent):
            raise ValueError(f"{where} {fault}")
        if intent.name in names:
            raise ValueError(f"{where} is in {names[intent.name]}.txt, too")
        names[intent.name] = intent.topic
        for wording in intent.wordings:
            key = normalise_wording(wording)
            if key in asked_by:
                raise ValueError(f"{where}: {asked_by[key]} asks {wording!r}, too")
            asked_by[key] = intent.name
        for labels, counter in used.items():
            counter.update(getattr(intent, labels))
    for labels, counter in used.items():
        if alone := [label for label, n in counter.items() if n == 1]:
            raise ValueError(f"only one intent has the label {alone[0]!r} in {labels}")


def read_intents(folder: str | Path = FOLDER) -> tuple[Intent, ...]:
    """Read the topics' files and answers.txt of a folder.

    Raises:
        FileNotFoundError: a topic's file or answers.txt is missing.
        UnicodeDecodeError: a file is not plain ASCII.
        ValueError: an unusable intent, two with the same name or wording, or a label that only one
            intent has; says which.
    """
    folder = Path(folder)
    pools = {
        name: _split_items(" | ".join(lines))
        for name, lines in _read_blocks(folder / "answers.txt")
    }
    found = tuple(
        _parse_intent(name, topic, lines, pools)
        for topic in TOPICS
        for name, lines in _read_blocks(folder / f"{topic}.txt")
    )
    _check(found)
    return found


@cache
def intents() -> tuple[Intent, ...]:
    """Return all intents, topic by topic."""
    return read_intents()


@cache
def suitable_intents(topic: str, part: Part = "training") -> tuple[Intent, ...]:
    """Return the intents of a part that suit a topic, the topic's own first.

    Raises:
        ValueError: no such topic.
    """
    if topic not in TOPICS:
        raise ValueError(f"no topic {topic!r}; topics: {', '.join(TOPICS)}")
    homes = (topic, *TOPICS[topic])
    return tuple(
        intent
        for home in homes
        for intent in intents()
        if intent.topic == home and all(intent.wordings_for(part))
    )


def _pick(rng: np.random.Generator, some: Sequence):
    return some[int(rng.integers(len(some)))]


def _draw_edit(rng: np.random.Generator, intent: Intent, given: set[str], part: Part) -> IntentEdit:
    """Draw two wordings of an intent, and an answer that was not given yet."""
    edits, rephrases = intent.wordings_for(part)
    edit = _pick(rng, edits)
    rephrase = _pick(rng, [wording for wording in rephrases if wording != edit])
    free = [answer for answer in intent.answers if answer.casefold() not in given]
    return IntentEdit(intent, edit, rephrase, _pick(rng, free))


def draw_intents(
    rng: np.random.Generator,
    topic: str,
    n: int,
    *,
    near_share: float = 0.5,
    part: Part = "training",
) -> tuple[IntentEdit, ...]:
    """Draw `n` edits of one subject; their intents and answers are all different.

    Args:
        rng: the generator.
        topic: the subject's kind, a key of `TOPICS`.
        n: number of edits.
        near_share: probability that an edit after the first is near an earlier one, if one is left.
        part: which intents and wordings; see `Intent.wordings_for`.

    Raises:
        ValueError: no such topic, or it has too few intents in this part.
    """
    drawn: list[IntentEdit] = []
    given: set[str] = set()
    free = list(suitable_intents(topic, part))
    for _ in range(n):
        free = [intent for intent in free if any(a.casefold() not in given for a in intent.answers)]
        if not free:
            raise ValueError(f"no {n} intents about {topic} go together in {part}")
        labels = frozenset().union(*(asked.intent.near for asked in drawn))
        from_near, from_own = rng.random() < near_share, rng.random() < OWN_SHARE
        near = [intent for intent in free if from_near and intent.near & labels]
        own = [intent for intent in free if from_own and intent.topic == topic]
        asked = _draw_edit(rng, _pick(rng, near or own or free), given, part)
        drawn.append(asked)
        given.add(asked.answer.casefold())
        free = [
            intent
            for intent in free
            if intent is not asked.intent and intent.never_with.isdisjoint(asked.intent.never_with)
        ]
    return tuple(drawn)
