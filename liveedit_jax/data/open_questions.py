"""Free questions with answers and rewordings, from the published training files of E-VQA and VLKEB.

Training asks them about arbitrary pictures, so the files' own pictures are not needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from liveedit_jax.data.annotations import parse_rows, text_field
from liveedit_jax.data.files import read_file
from liveedit_jax.data.json_files import FILE_MOST

_LABEL = re.compile(r"^(here is the )?(rewritten|rephrased|reworded)[^:]*:", re.IGNORECASE)
_QUOTES = "\"'“”"


@dataclass(frozen=True)
class OpenQuestion:
    """A question, a rewording of it, and an answer."""

    src: str
    rephrase: str
    answer: str


@dataclass(frozen=True)
class OpenQuestions:
    """The distinct rows of some files, and each file's sha256 by its name."""

    rows: tuple[OpenQuestion, ...]
    sha256: dict[str, str]


def clean_rewording(src: str, text: str) -> str | None:
    """Extract the reworded question from what a language model wrote when asked to reword `src`.

    Its text may have quotes around the question, a label such as "Rewritten question:" in front of
    it, a repetition of `src`, or several rewordings on lines of their own, of which the first is
    taken. None if there is no other wording.
    """
    for line in text.splitlines():
        said = _LABEL.sub("", line.strip()).strip()
        if len(said) > 1 and said[0] in _QUOTES and said[-1] in _QUOTES:
            said = said[1:-1].strip()
        if said and src.strip().casefold() not in said.casefold() and not said.endswith(":"):
            return said
    return None


def read_open_questions(files: Iterable[str | Path]) -> OpenQuestions:
    """Read the rows of annotation files in order; rows without another wording are skipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: two files of one name, no usable row, or a damaged row; says which and why.
    """
    found: dict[OpenQuestion, None] = {}  # in order, each once
    sha256: dict[str, str] = {}
    for file in map(Path, files):
        if not file.is_file():
            raise FileNotFoundError(f"no file of questions at {file}")
        if file.name in sha256:
            raise ValueError(f"two files of questions are called {file.name}: rename one of them")
        data = read_file(file, FILE_MOST)
        sha256[file.name] = hashlib.sha256(data).hexdigest()
        for number, row in enumerate(parse_rows(data, file)):
            where = f"{file}, row {number}"
            if not isinstance(row, dict):
                raise ValueError(f"{where} has to be an object, it is {type(row).__name__}")
            src, text, answer = (
                text_field(row, name, where) for name in ("src", "rephrase", "alt")
            )
            rephrase = clean_rewording(src, text)
            if rephrase is not None:
                found[OpenQuestion(src.strip(), rephrase, answer.strip())] = None
    if not found:
        raise ValueError("the files of questions have no question with another wording")
    return OpenQuestions(tuple(found), sha256)
