"""One edit and its probes as the field's benchmarks write it: one schema for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Port:
    """A portability probe: asked of the edited picture, answered only by using the edit."""

    question: str
    answer: str
    hops: int  # facts that lead from the edit to the answer
    edit_question: str | None = None  # a text fact that is edited too, before the question
    edit_answer: str | None = None


@dataclass(frozen=True)
class SameImage:
    """Another question about an edited picture, and its true answer."""

    fact: str
    question: str
    answer: str


@dataclass(frozen=True)
class Record:
    """E-VQA's fields, then what other benchmarks add.

    A picture is encoded bytes (PNG or JPEG) or the file that holds them.
    `record["src"]` reads like the row of a benchmark's JSON file.
    """

    src: str  # the edit's prompt
    rephrase: str  # the same question in other words
    alt: str  # the target
    pred: str  # what was true (or predicted) before
    image: bytes | Path
    image_rephrase: bytes | Path  # the same entity, another picture (MojiEdit: another view)
    loc: str  # text locality: a question without image
    loc_ans: str
    m_loc: bytes | Path  # image locality: an unrelated picture
    m_loc_q: str
    m_loc_a: str
    entity: str
    fact: str
    split: str
    other_drawing: bytes | None = None  # by an artist whose drawings the base was trained on
    third_drawing: bytes | None = None  # by one that nothing was trained on
    same_image: tuple[SameImage, ...] = ()  # other questions about `image`; the first never edited
    look_alike: bytes | Path | None = None  # an unedited entity of its subcategory, asked `src`
    look_alike_a: str | None = None
    dataset: str | None = None  # whose prompts it is asked with (None: its texts as they are)
    row: int | None = None  # its place in the authors' file, from 0
    port: tuple[Port, ...] = ()

    @property
    def same_image_q(self) -> str | None:
        """The question about `image` whose fact is never edited."""
        return self.same_image[0].question if self.same_image else None

    @property
    def same_image_a(self) -> str | None:
        """Its answer."""
        return self.same_image[0].answer if self.same_image else None

    def __getitem__(self, field: str):
        """A field by its name (KeyError when there is none)."""
        if field not in (*self.__dataclass_fields__, "same_image_q", "same_image_a"):
            raise KeyError(field)
        return getattr(self, field)
