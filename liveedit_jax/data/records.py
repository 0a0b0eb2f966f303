"""Records: one edit and its probes, in one schema for all benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def check_text(name: str, text) -> str:
    """Refuse a prompt or target that nobody can be asked; returns the others as they are.

    Raises:
        ValueError: not a string, empty, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise ValueError(f"the {name} is not a string")
    if not text.strip():
        raise ValueError(f"the {name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {name} is not valid UTF-8") from None
    return text


@dataclass(frozen=True)
class PortabilityProbe:
    """A portability probe: a question about the edited picture whose answer needs the edit."""

    question: str
    answer: str
    hops: int  # further facts between the edit and the answer
    edit_question: str | None = None  # a textual edit that is made before the question, too
    edit_answer: str | None = None


@dataclass(frozen=True)
class SameImage:
    """Another question about an edited picture, and its true answer."""

    fact: str
    question: str
    answer: str


@dataclass(frozen=True)
class Record:
    """One edit with its probes: E-VQA's fields, then those that other benchmarks add.

    A picture is encoded bytes (PNG or JPEG) or the file that holds them. Fields can also be read
    by name, as in a benchmark's JSON row: `record["src"]`.
    """

    src: str  # the edit's prompt
    rephrase: str  # the same question in other words
    alt: str  # the target
    pred: str  # what was true (or predicted) before
    image: bytes | Path
    image_rephrase: bytes | Path  # another picture of the same entity (MojiEdit: another view)
    loc: str  # text locality: a question without image
    loc_ans: str
    m_loc: bytes | Path  # image locality: an unrelated picture
    m_loc_q: str
    m_loc_a: str
    entity: str
    fact: str
    split: str
    other_drawing: bytes | None = None  # by an artist whose drawings the base was trained on
    third_drawing: bytes | None = None  # by an artist whose drawings no model was trained on
    same_image: tuple[SameImage, ...] = ()  # other questions about `image`; the first never edited
    look_alike: bytes | Path | None = None  # an unedited entity of its subcategory; `src` is asked
    look_alike_a: str | None = None
    dataset: str | None = None  # whose prompts it is asked with (None: its texts as they are)
    row: int | None = None  # index in the authors' file
    port: tuple[PortabilityProbe, ...] = ()

    @property
    def same_image_q(self) -> str | None:
        """Return the question about `image` whose fact is never edited."""
        return self.same_image[0].question if self.same_image else None

    @property
    def same_image_a(self) -> str | None:
        """Return the answer to `same_image_q`."""
        return self.same_image[0].answer if self.same_image else None

    def __getitem__(self, field: str):
        """Return a field by its name; an unknown name is a KeyError."""
        if field not in (*self.__dataclass_fields__, "same_image_q", "same_image_a"):
            raise KeyError(field)
        return getattr(self, field)
