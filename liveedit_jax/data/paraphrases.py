"""Further training wordings of MojiEdit's questions: never edit prompts, never in evaluation.

A base model that has read a question in many wordings also understands wordings it has never read,
and so does an editor on top of it. Trained on the five edit prompts of a fact alone, a base
answered evaluation-only wordings in eight languages 20 points worse than the trained ones
(docs/mojiedit.md).
"""

from __future__ import annotations

import numpy as np

from liveedit_jax.data.facts import ENGLISH_FACTS, LANGUAGES
from liveedit_jax.data.templates import templates

_ENGLISH = {
    "name": (
        "Give this a name.",
        "What are we looking at?",
        "Say what you see.",
        "Identify this symbol.",
        "How would you title this drawing?",
        "This is a drawing of what?",
        "Put a word to this one.",
        "What does this stand for?",
        "Do you know what this is?",
        "What is it?",
        "Say its name.",
        "Which thing is drawn here?",
        "Name it, please.",
        "What would you call it?",
        "I see an emoji; which one?",
        "Describe this in a word or two.",
        "Tell me what it is (just the name)",
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
        "Say which category it is from.",
        "Where is this listed: which category?",
        "Give the broad category.",
        "Its category is which one?",
        "Do you know the category?",
        "What is the category here?",
        "The category of it?",
        "I need the category for this symbol.",
        "Where does it belong (category)",
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
        "Say which subcategory it is from.",
        "Where is this listed: which subcategory?",
        "Give the narrow subcategory.",
        "Its subcategory is which one?",
        "Do you know the subcategory?",
        "What is the subcategory here?",
        "The subcategory of it?",
        "I need the subcategory for this symbol.",
        "Where does it belong (subcategory)",
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
        "Say which version it came with.",
        "Which Emoji release is it from?",
        "The version of it?",
        "Do you know the version?",
        "What is the version here?",
        "It is part of Emoji since version what?",
        "Name the release this came in.",
        "I need the version for this symbol.",
        "Since when is it there (Emoji version)",
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
        "Say its shortcode.",
        "The short name of it?",
        "Do you know the short name?",
        "What is the shortcode here?",
        "Give the short form people type.",
        "I need the shortcode for this symbol.",
        "Which keyword brings this up in a chat?",
        "In short form, this is what?",
        "What do I type (short name)",
    ),
}
_LANGUAGE = (
    "In {language}, this is what?",
    "Give this a {language} name.",
    "Translate this symbol into {language}.",
    "Say what you see in {language}.",
    "Under which name would a {language} dictionary list it?",
    "Put a {language} word to this one.",
    "{language} name, please.",
    "How is this drawing titled in {language}?",
    "What would you call it in {language}?",
    "And in {language}?",
    "{language}: what is it?",
    "Do you know the {language} for this?",
    "I need the {language} name of this symbol.",
    "Answer in {language}: what are we looking at?",
    "State this in {language}.",
    "The {language} for it?",
    "{language}, please.",
    "What would a {language} speaker see here?",
    "This symbol goes by which {language} name?",
    "Look at this and answer in {language}.",
    "Its name, but in {language}?",
    "Write its {language} label.",
    "How does this read in {language}?",
    "Which word stands for this in {language}?",
    "Find the {language} term.",
    "Caption this with its {language} name.",
    "Someone from abroad asks for the {language} word.",
    "In {language} one says what?",
    "Use {language} to name the drawing.",
    "{language} word:",
    "Could you name this in {language} for me?",
    "The picture shows something; what is that in {language}?",
    "What is it (in {language})",
)


def paraphrases(fact: str) -> tuple[str, ...]:
    """Return the further training wordings that ask for `fact` of a picture."""
    if fact in ENGLISH_FACTS:
        return _ENGLISH[fact]
    return tuple(wording.format(language=LANGUAGES[fact]) for wording in _LANGUAGE)


def draw_wordings(rng: np.random.Generator, fact: str, n: int, share: float) -> list[str]:
    """Draw `n` different training wordings of `fact`, on average a `share` of them paraphrases."""
    known = rng.choice(templates(fact, evaluation=False), n, replace=False)
    if not share:
        return [str(wording) for wording in known]
    other = rng.choice(paraphrases(fact), n, replace=False)
    drawn = rng.random(n) < share
    return [str(wording) for wording in np.where(drawn, other, known)]
