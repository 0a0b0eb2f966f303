"""A folder of photographs with free questions: one edit per photograph, and other questions.

`cases.json` is a list of {"name", "question", "target", "rephrase", "others": [...]}. In the same
folder are NAME.jpg, which is edited, and NAME-view.jpg, another picture of the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from liveedit_jax.data.images import decode_image, read_bytes
from liveedit_jax.data.json_files import read_json
from liveedit_jax.data.records import check_text

TEXTS = ("name", "question", "target", "rephrase")
FILE = "cases.json"


@dataclass(frozen=True)
class PhotographCase:
    """One photograph: its edit, the same question in other words, and other questions about it."""

    name: str
    question: str
    target: str
    rephrase: str
    others: tuple[str, ...]
    picture: bytes
    view: bytes

    def asks(self, question: str) -> bool:
        """Return whether this is the edit's question or its rephrasing, word for word."""
        said = question.strip().casefold()
        return said in (self.question.strip().casefold(), self.rephrase.strip().casefold())


def read_cases(folder: str | Path) -> tuple[PhotographCase, ...]:
    """Read a folder of photographs; errors are one line.

    Raises:
        FileNotFoundError: no folder, no cases.json, or a missing picture.
        ValueError: not JSON, no cases, an unusable field or picture, or two cases with the same
            name or the same edit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    file = folder / FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: a list of cases, beside their pictures")
    rows = read_json(file)
    if not isinstance(rows, list):
        raise ValueError(f"{file} has to be a list of cases, it is {type(rows).__name__}")
    if not rows:
        raise ValueError(f"{file} has no cases")
    cases = tuple(_case(row, f"{file}, case {i}", folder) for i, row in enumerate(rows))
    _refuse_doubles(cases, file)
    return cases


def _case(row, where: str, folder: Path) -> PhotographCase:
    if not isinstance(row, dict):
        raise ValueError(f"{where} has to be an object, it is {type(row).__name__}")
    for field in (*TEXTS, "others"):
        if field not in row:
            raise ValueError(f"{where}: field {field!r} is missing")
    try:
        texts = {field: check_text(field, row[field]) for field in TEXTS}
        name = texts["name"]
        if name in (".", "..") or set(name) & set("/\\\0"):
            raise ValueError(f"the name {name!r} cannot be a file's")
        where += f" ({name})"
        if not isinstance(row["others"], list):
            raise ValueError("field 'others' has to be a list of questions")
        others = tuple(check_text("question in 'others'", other) for other in row["others"])
        case = PhotographCase(
            **texts,
            others=others,
            picture=_read_picture(folder / f"{name}.jpg"),
            view=_read_picture(folder / f"{name}-view.jpg"),
        )
        for other in others:
            if case.asks(other):
                raise ValueError(f"'others' has the edit's own question {other!r}")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return case


def _read_picture(file: Path) -> bytes:
    """Read an image file, after a check that it decodes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable image.
    """
    data = read_bytes(file)
    decode_image(data, 8, str(file))
    return data


def _refuse_doubles(cases: tuple[PhotographCase, ...], file: Path) -> None:
    """Refuse two cases with one name, or with one edit: the second would supersede the first."""
    names, edits = {}, {}
    for i, case in enumerate(cases):
        if case.name in names:
            raise ValueError(f"{file}: cases {names[case.name]} and {i} are both {case.name!r}")
        edit = case.picture, case.question
        if edit in edits:
            raise ValueError(f"{file}: {edits[edit]!r} and {case.name!r} are the same edit")
        names[case.name], edits[edit] = i, case.name
