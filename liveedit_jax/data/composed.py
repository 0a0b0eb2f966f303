"""Questions that combine facts: two-fact questions, questions about scenes, and captions.

As with single facts, there are training wordings and evaluation-only ones. A small model hardly
ever composes two facts silently, so the answer to a two-fact question states both steps: the first
fact, then what follows from it ("Hund; dog"). A scene is two drawings side by side.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from liveedit_jax.data.facts import FACTS, LANGUAGES, Entity, digest, entities

STEPS = "Step by step."  # ends a two-fact question whose answer states both facts
COMPOSED_SPLITS = ("editor_train", "probe")  # whose two-fact answers and captions are learned
SIDES = ("left", "right")
# (the picture's fact, what follows from it)
TWO_FACTS = (
    ("subcategory", "category"),
    ("short_name", "name"),
    *((language, "name") for language in LANGUAGES),
    ("name", "category"),
    ("name", "version"),
    *(("name", language) for language in LANGUAGES),
)
_TWO_FACTS_TRAIN = (
    "What is the {second} of the emoji with this {first}?",
    "Take its {first}: what {second} goes with that?",
    "From its {first}, tell me the {second}.",
    "Its {first} leads to which {second}?",
    "Find its {first}, then the {second} of that.",
)
_TWO_FACTS_MORE = (
    "Name the {second} of whatever has this {first}.",
    "Start from its {first}; end with the {second}.",
    "With that {first}, the {second} must be what?",
    "Which is the {second} for this one's {first}?",
    "Say the {second} that its {first} stands for.",
    "I want the {second}. Use its {first}.",
    "Work out the {second} through the {first}.",
    "First the {first} of this, then its {second}.",
    "What {second} does something of this {first} have?",
    "Looking at its {first}, tell me which {second} it must be.",
    "Knowing the {first}, do you know the {second}?",
    "The {first} of this picture: what is the {second} of that?",
    "Get me from the {first} to the {second}.",
    "Look up its {first}. Now the {second}?",
    "Its {second}, by way of its {first}, please.",
    "Use the {first} to find the {second}.",
    "If you think of its {first}, what is then the {second}?",
    "{first}, then {second}:",
    "The {second} behind the {first} of this emoji?",
    "Can you tell the {second} by the {first}?",
    "Its {second} (by its {first})",
    "What {second} is that (use its {first})",
)
_TWO_FACTS_EVAL = (
    "Which {second} follows from its {first}?",
    "Given its {first}, what is the {second}?",
)
_SIDE_TRAIN = (
    "On the {side}: {question}",
    "{Side} picture. {question}",
    "{question} I mean the {side} one.",
    "Look at the {side} half. {question}",
    "Of the two, the {side} one: {question}",
)
_SIDE_MORE = (
    "{question} The {side} picture, please.",
    "{question} {Side} side.",
    "{question} I am asking about the {side} drawing",
    "{question} - {side}",
    "{question} [{side}]",
    "{question} {Side}!",
    "{question} Only the picture at the {side} counts.",
    "{question} That is, for the {side} half?",
    "[{Side}] {question}",
    "{Side}: {question}",
    "{Side} drawing - {question}",
    "There are two. Take the {side} one. {question}",
    "About the thing to the {side}: {question}",
    "Ignore the other one, answer for the {side}. {question}",
    "As for the {side} emoji, {question}",
    "See the {side} side? {question}",
    "Here is a question about the {side} picture. {question}",
    "At the {side}... {question}",
    'Asked about "{side}": {question}',
    '{question} Meant is "{side}"',
    "{question} ({side} drawing)",
    "{question} (I mean the {side} picture)",
    "{question} (of the two, {side})",
    "({Side}) {question}",
)
_SIDE_EVAL = ("The one on the {side}: {question}", "{question} (on the {side})")
_CAPTION_TRAIN = (
    "Describe this emoji, with its {first} and {second} names.",
    "Write a caption; add {first} and {second}.",
    "Tell me all about this, in {first} and {second} too.",
    "Everything about this picture, {first} and {second} names last.",
)
_CAPTION_EVAL = ("Give a full description with the {first} and {second} names.",)


def _noun(fact: str) -> str:
    if fact in LANGUAGES:
        return f"{LANGUAGES[fact]} name"
    return {"version": "Emoji version", "short_name": "short name"}.get(fact, fact)


def two_fact_wordings(first: str, second: str, evaluation: bool) -> tuple[str, ...]:
    """Return the questions for the `second` fact that follows from a picture's `first` one."""
    wordings = _TWO_FACTS_EVAL if evaluation else _TWO_FACTS_TRAIN + _TWO_FACTS_MORE
    return tuple(w.format(first=_noun(first), second=_noun(second)) for w in wordings)


def two_step_answer(first: str, second: str) -> str:
    """Join two facts into the answer that states both."""
    return f"{first}; {second}"


@cache
def implications(first: str, second: str) -> dict[str, str]:
    """Map values of `first` to the value of `second` that all entities with that value share."""
    found = defaultdict(set)
    for entity in entities():
        found[entity.facts[first]].add(entity.facts[second])
    return {value: next(iter(values)) for value, values in found.items() if len(values) == 1}


def side_wordings(question: str, side: str, evaluation: bool) -> tuple[str, ...]:
    """Return the wordings that ask a question about one side of a scene."""
    wordings = _SIDE_EVAL if evaluation else _SIDE_TRAIN + _SIDE_MORE
    words = {"side": side, "Side": side.title(), "question": question}
    return tuple(wording.format(**words) for wording in wordings)


def is_held_out_scene(left: Entity, right: Entity) -> bool:
    """Return whether this ordered pair is a scene of evaluation alone (a tenth of all pairs)."""
    return digest("scene", left.file_key, right.file_key) % 10 == 0


def caption_wordings(first: str, second: str, evaluation: bool) -> tuple[str, ...]:
    """Return the requests for a caption that ends with the names in two languages."""
    wordings = _CAPTION_EVAL if evaluation else _CAPTION_TRAIN
    return tuple(w.format(first=LANGUAGES[first], second=LANGUAGES[second]) for w in wordings)


def caption(facts: dict[str, str], first: str, second: str) -> str:
    """Write a caption: all English facts, and the names in two languages."""
    return (
        f"This is {facts['name']}: {facts['subcategory']}, under {facts['category']}. It came with "
        f"Emoji {facts['version']}; you type {facts['short_name']}. In {LANGUAGES[first]} it is "
        f"{facts[first]}, in {LANGUAGES[second]} {facts[second]}."
    )


def tokenizer_wordings() -> list[str]:
    """List the wordings of this module from which the tokenizer learns; it is older than the rest.

    The wordings of `_TWO_FACTS_MORE` and `_SIDE_MORE` came after the tokenizer: with five wordings
    alone the base answered evaluation wordings up to 84 points worse than those it knew.
    """
    pairs = zip(LANGUAGES, reversed(LANGUAGES), strict=True)
    two_n, sides_n = len(_TWO_FACTS_TRAIN), len(_SIDE_TRAIN)
    return [
        *(w for pair in TWO_FACTS for w in two_fact_wordings(*pair, False)[:two_n]),
        *(w for side in SIDES for w in side_wordings("What is it?", side, False)[:sides_n]),
        *(w for pair in pairs for w in caption_wordings(*pair, False)),
        STEPS,
        caption({fact: "it" for fact in FACTS}, *list(LANGUAGES)[:2]),
    ]
