"""How the protocol asks a benchmark's texts: one table, the texts as their files have them.

Nothing is stripped: a newline at a target's end is a token of it, and "nq question: " is asked.
Between prompt and target stands one space where neither has one (`tokenise.tokenise_pair`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """What stands around each kind of text, {}."""

    edit: str = "{}"  # the edit's prompt and its rephrase
    image_locality: str = "{}"
    text_locality: str = "{}"


PLAIN_PROMPTS = Prompts()
CAPTION_PROMPTS = Prompts(image_locality="{} The answer is:", text_locality="{}?")
PROMPTS: dict[str, Prompts] = {
    "mojiedit": PLAIN_PROMPTS,
    "evqa": Prompts("{} The answer is:", "{} The answer is:", "{}?"),
    "eic": CAPTION_PROMPTS,
    "vlkeb": CAPTION_PROMPTS,
}
