"""The wordings of MojiEdit's questions: training templates (edit prompts) and evaluation-only ones.

Image questions speak of "this"; text-only questions name the entity, so that text locality asks for
knowledge that the model really has. Training never sees an EVAL template; editor training also
uses paraphrases that occur nowhere else.
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
_PARAPHRASES = {
    "name": (
        "Give this a name.",
        "What are we looking at?",
        "Say what you see.",
        "Identify this symbol.",
        "How would you title this drawing?",
        "This is a drawing of what?",
        "Put a word to this one.",
        "What does this stand for?",
    ),
    "category": (
        "Under which category would you look for it?",
        "What broad group is this part of?",
        "Sort this into a category.",
        "Which category lists this symbol?",
        "State the category of this drawing.",
        "This would be filed as which category?",
        "Category, please.",
        "How is this categorised?",
    ),
    "subcategory": (
        "Under which subcategory would you look for it?",
        "What narrow group is this part of?",
        "Sort this into a subcategory.",
        "Which subcategory lists this symbol?",
        "State the subcategory of this drawing.",
        "This would be filed as which subcategory?",
        "Subcategory, please.",
        "What is the finer grouping of this?",
    ),
    "version": (
        "When did this first appear, as a version?",
        "Which release brought this symbol?",
        "State the version of this drawing.",
        "From which Emoji version on can it be used?",
        "Its first version is which?",
        "Version, please.",
        "How new is this, by version number?",
        "Give the Emoji version behind this.",
    ),
    "short_name": (
        "Give the code between the colons.",
        "What would you type to get this symbol?",
        "State the shortcode of this drawing.",
        "Which chat code makes this appear?",
        "Its shortcode is which?",
        "Short name, please.",
        "How do you enter this in a chat?",
        "Write the short code for this one.",
    ),
}
_LANGUAGE_PARAPHRASES = (
    "In {language}, this is what?",
    "Give this a {language} name.",
    "Translate this symbol into {language}.",
    "Say what you see in {language}.",
    "Under which name would a {language} dictionary list it?",
    "Put a {language} word to this one.",
    "{language} name, please.",
    "How would somebody from a {language} class title this drawing?",
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
    """The wordings that ask for `fact` of a picture: training ones, or evaluation-only ones."""
    if fact in ENGLISH_FACTS:
        return (_EVAL if evaluation else _TRAIN)[fact]
    wordings = _LANGUAGE_EVAL if evaluation else _LANGUAGE_TRAIN
    return tuple(wording.format(language=LANGUAGES[fact]) for wording in wordings)


def paraphrases(fact: str) -> tuple[str, ...]:
    """Further wordings for editor training alone: neither the base nor evaluation ever asks them.

    To the base they are as new as the evaluation wordings are, so editors learn to generalise.
    """
    if fact in ENGLISH_FACTS:
        return _PARAPHRASES[fact]
    return tuple(wording.format(language=LANGUAGES[fact]) for wording in _LANGUAGE_PARAPHRASES)


def text_questions(fact: str, facts: dict[str, str]) -> tuple[str, ...]:
    """The text-only questions for `fact` of the entity with these facts."""
    name = facts["name"]
    if fact in LANGUAGES:
        return tuple(t.format(name=name, language=LANGUAGES[fact]) for t in _TEXT_LANGUAGE)
    if fact == "name":
        others = [f'the {LANGUAGES[code]} "{facts[code]}"' for code in ("de", "es")]
        return tuple(t.format(other=o) for t, o in zip(_TEXT["name"], others, strict=True))
    return tuple(t.format(name=name) for t in _TEXT[fact])
