"""The evaluation protocol's prompt templates, one for each kind of text.

Texts are used exactly as their files have them: a newline at the end of a target is one of its
tokens, and the prefix "nq question: " is part of the prompt. Where neither has a space, one is put
between prompt and target (`tokenise.tokenise_pair`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """A benchmark's templates; {} is the text."""

    edit: str = "{}"  # of the edit's prompt and its rephrase
    image_locality: str = "{}"
    text_locality: str = "{}"


PLAIN_PROMPTS = Prompts()
CAPTION_PROMPTS = Prompts(image_locality="{} The answer is:", text_locality="{}?")
QUESTION_PROMPTS = Prompts("{} The answer is:", "{} The answer is:", "{}?")
