"""The wordings of MojiEdit's questions: training templates (edit prompts) and evaluation-only ones.

Questions about a picture say "this". Text-only questions name the entity, so that text locality
tests knowledge that the model really has. Training never sees an evaluation template; it also uses
the wordings of `paraphrases`, which are never edit prompts.
"""

from __future__ import annotations

from liveedit_jax.data.facts import ENGLISH_FACTS, LANGUAGES

_TRAIN = {
    "name": (
        "What is this called?",
        "Name this picture.",
        "Tell me what this shows.",
        "What does the image depict?",
        "Which emoji is this?",
    ),
    "category": (
        "Which category does this belong to?",
        "What is its category?",
        "Name the category of this emoji.",
        "Tell me the general group of this picture.",
        "In which category is it filed?",
    ),
    "subcategory": (
        "Which subcategory does this belong to?",
        "What is its subcategory?",
        "Name the subcategory of this emoji.",
        "Tell me the specific subgroup of this picture.",
        "In which subcategory is it filed?",
    ),
    "version": (
        "Which Emoji version added this?",
        "What version is it from?",
        "Name the version of this emoji.",
        "Tell me the version that introduced this picture.",
        "Since which version does it exist?",
    ),
    "short_name": (
        "What is the short name of this?",
        "Which code do you type for it?",
        "Name the shortcode of this emoji.",
        "Tell me the short name for this picture.",
        "How is it abbreviated in chat?",
    ),
}
_EVAL = {
    "name": (
        "What do you call this emoji?",
        "What is shown in this picture?",
        "Tell me the name of this.",
    ),
    "category": (
        "What category is this emoji in?",
        "To which general category does it belong?",
        "Tell me its category.",
    ),
    "subcategory": (
        "What subcategory is this emoji in?",
        "To which specific subcategory does it belong?",
        "Tell me its subcategory.",
    ),
    "version": (
        "In what version was this emoji added?",
        "Which version introduced it?",
        "Tell me its Emoji version.",
    ),
    "short_name": (
        "What shortcode does this emoji have?",
        "Which short name is used for it?",
        "Tell me its short name.",
    ),
}
_LANGUAGE_TRAIN = (
    "What is this called in {language}?",
    "Name this in {language}.",
    "What is its {language} name?",
    "Tell me the {language} word for this picture.",
    "How do you say this in {language}?",
)
_LANGUAGE_EVAL = (
    "What do {language} speakers call this emoji?",
    "Which {language} name does it have?",
    "Tell me its name in {language}.",
)
_TEXT = {
    "name": ("What is {other} called in English?", "Give the English name of {other}."),
    "category": ('Which category does "{name}" belong to?', 'What is the category of "{name}"?'),
    "subcategory": (
        'Which subcategory does "{name}" belong to?',
        'What is the subcategory of "{name}"?',
    ),
    "version": ('Which Emoji version added "{name}"?', 'What version is "{name}" from?'),
    "short_name": ('What is the short name of "{name}"?', 'Which code do you type for "{name}"?'),
}
_TEXT_LANGUAGE = ('What is "{name}" called in {language}?', 'Say "{name}" in {language}.')


def templates(fact: str, evaluation: bool) -> tuple[str, ...]:
    """Return the wordings that ask for `fact` of a picture: for training, or for evaluation."""
    if fact in ENGLISH_FACTS:
        return (_EVAL if evaluation else _TRAIN)[fact]
    wordings = _LANGUAGE_EVAL if evaluation else _LANGUAGE_TRAIN
    return tuple(wording.format(language=LANGUAGES[fact]) for wording in wordings)


def text_questions(fact: str, facts: dict[str, str]) -> tuple[str, ...]:
    """Return the text-only questions for `fact` of the entity with these facts."""
    name = facts["name"]
    if fact in LANGUAGES:
        return tuple(t.format(name=name, language=LANGUAGES[fact]) for t in _TEXT_LANGUAGE)
    if fact == "name":
        others = [f'the {LANGUAGES[code]} "{facts[code]}"' for code in ("de", "es")]
        return tuple(t.format(other=o) for t, o in zip(_TEXT["name"], others, strict=True))
    return tuple(t.format(name=name) for t in _TEXT[fact])
