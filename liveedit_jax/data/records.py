"""One edit and its probes as the field's benchmarks write it: one schema for all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """E-VQA's fields, then what MojiEdit adds. Images are encoded bytes (PNG or JPEG).

    `record["src"]` reads like the row of a benchmark's JSON file.
    """

    src: str  # the edit's prompt
    rephrase: str  # the same question in other words
    alt: str  # the target
    pred: str  # what was true (or predicted) before
    image: bytes
    image_rephrase: bytes  # the same entity, another picture
    loc: str  # text locality: a question without image
    loc_ans: str
    m_loc: bytes  # image locality: an unrelated picture
    m_loc_q: str
    m_loc_a: str
    entity: str
    fact: str
    split: str
    same_image_q: str | None = None  # another question about `image`, never edited
    same_image_a: str | None = None
    look_alike: bytes | None = None  # an unedited entity of the same subcategory, asked `src`
    look_alike_a: str | None = None

    def __getitem__(self, field: str):
        """A field by its name (KeyError when there is none)."""
        if field not in self.__dataclass_fields__:
            raise KeyError(field)
        return getattr(self, field)
