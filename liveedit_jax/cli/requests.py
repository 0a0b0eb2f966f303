"""Edit requests from a command line or a JSON-lines file, and how they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from liveedit_jax.cli.wording import one_line
from liveedit_jax.data import json_files
from liveedit_jax.data.records import check_text

if TYPE_CHECKING:
    from liveedit_jax.session import EditingSession, EditResult, ImageFile
    from liveedit_jax.session.editing_session import ReadRequest

FIELDS = ("image", "prompt", "target")


@dataclass(frozen=True)
class RequestLine:
    """A request, the sha256 of its picture, and the line of the file that it is from.

    The picture's bytes are not kept: a file of edits may name more pictures than fit into memory.
    """

    image: Path
    sha256: str
    prompt: str
    target: str
    line: int = 1

    @property
    def subject(self) -> tuple[str, str]:
        """Tell what it is about: a later request of the same subject supersedes it."""
        return self.sha256, self.prompt


@dataclass(frozen=True)
class BadLine:
    """A line of a file that is no request, and why."""

    line: int
    reason: str


def read_picture(file: str | Path) -> ImageFile:
    """Read an image file, and look at its header alone: it is decoded by the model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or a too large one.
    """
    from liveedit_jax.data.decoding import check_header
    from liveedit_jax.session.images import read_image

    image = read_image(file)
    check_header(image.data, str(file))
    return image


def _picture_sha256(file: Path) -> str:
    return hashlib.sha256(read_picture(file).data).hexdigest()


def request_of(
    image: str | Path, prompt, target, line: int = 1, read: Callable[[Path], str] = _picture_sha256
) -> RequestLine:
    """Make one request, after a look at its texts and its picture's header.

    Raises:
        FileNotFoundError: no such image.
        ValueError: not an image, an empty prompt or target.
    """
    check_text("prompt", prompt)
    check_text("target", target)
    return RequestLine(Path(image), read(Path(image)), prompt, target, line)


def _parse(line: bytes | None, number: int, home: Path, read: Callable) -> RequestLine:
    if line is None:
        raise ValueError(f"it is longer than {json_files.LINE_MOST >> 20} MiB")
    fields = json_files.parse_json(line, "it")
    if not isinstance(fields, dict):
        raise ValueError('not an object like {"image": ..., "prompt": ..., "target": ...}')
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    unknown = sorted(fields.keys() - set(FIELDS))
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}")
    image = check_text("image", fields["image"])
    near = home / image
    file = near if near.is_file() else Path(image)
    return request_of(file, fields["prompt"], fields["target"], number, read)


def read_lines(file: Path) -> list[RequestLine | BadLine]:
    """Read a JSON-lines file; image names are relative to it, else to the working folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no line at all.
    """
    read = cache(_picture_sha256)  # a picture of many edits is read once
    found: list[RequestLine | BadLine] = []
    for number, line in json_files.read_lines(file):
        try:
            found.append(_parse(line, number, file.parent, read))
        except (ValueError, OSError) as error:
            found.append(BadLine(number, one_line(error)))
    if not found:
        raise ValueError(f"{file} holds no edits")
    return found


def store(
    editor: EditingSession, lines: Sequence[RequestLine | BadLine], file: str | None, check: bool
) -> Iterator[EditResult]:
    """Store every good request; bad lines are told at the end.

    What a run that was cut short has stored is found again and not stored twice. Pictures are read
    when their turn comes.

    Args:
        editor: an open session.
        lines: requests, in their order.
        file: where they are from, for errors; None: the one request of a command line.
        check: ask the questions of new edits back.

    Yields:
        Each edit once it is durable, without an answer; and, with `check`, new ones again, with
        what is answered now.

    Raises:
        ValueError: naming the bad lines; the edits of all other lines are stored.
        OverflowError: the repository is full; those given before are stored.
    """
    from liveedit_jax.session.editing_session import EditResult
    from liveedit_jax.session.model import BATCH_N

    bad = [line for line in lines if isinstance(line, BadLine)]
    good: list[RequestLine] = []
    for line in lines:
        if isinstance(line, RequestLine):
            try:
                editor.model.check(line.prompt, line.target)
                good.append(line)
            except ValueError as error:
                bad.append(BadLine(line.line, str(error)))
    if file is None and bad:
        raise ValueError(bad[0].reason)
    # live already, with what the file says last about it
    last = {line.subject: line for line in good}
    known: dict[int, int | None] = {}
    for line in good:
        asked = last[line.subject]
        try:
            known[line.line] = editor.find(asked.image, asked.prompt, asked.target)
        except (ValueError, OSError) as error:  # its file has changed since
            bad.append(BadLine(line.line, one_line(error)))
    good = [line for line in good if line.line in known]

    waiting: list[tuple[int, ReadRequest]] = []  # with the lines that they are from
    stored_n = 0

    def flush() -> Iterator[EditResult]:
        nonlocal waiting, stored_n
        while waiting:
            try:
                added = editor.add([request for _, request in waiting])
            except OverflowError as error:
                if file is None:
                    raise
                raise OverflowError(
                    f"{file} line {waiting[0][0]}: {error} (the lines before it are stored)"
                ) from error
            waiting, stored_n = waiting[len(added.ids) :], stored_n + len(added.ids)
            yield from map(EditResult, added.ids)
            if check:
                yield from editor.results(added)

    for line in good:
        if (edit_id := known[line.line]) is not None:
            yield from flush()
            stored_n += 1
            yield EditResult(edit_id)
            continue
        try:
            waiting.append((line.line, editor.read(line.image, line.prompt, line.target)))
        except (ValueError, OSError) as error:
            if file is None:
                raise
            bad.append(BadLine(line.line, one_line(error)))
        if len(waiting) == BATCH_N:
            yield from flush()
    yield from flush()
    if bad:
        raise ValueError(bad[0].reason if file is None else _bad_lines(file, bad, stored_n))


def _bad_lines(file: str, bad: Sequence[BadLine], stored_n: int) -> str:
    """Name the bad lines of a file, the first with its reason."""
    first, *rest = sorted(bad, key=lambda each: each.line)
    more = ""
    if rest:
        named = ", ".join(str(each.line) for each in rest[:9]) + ("..." if len(rest) > 9 else "")
        more = f" (and {len(rest)} more bad lines: {named})"
    kept = f"the edits of the other {stored_n} lines are stored"
    return f"{file} line {first.line}: {first.reason}{more}; {kept}"
