"""Edit requests from a command line or a JSON-lines file, and how they are stored."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from liveedit_jax.session import EditingSession, EditResult, ImageFile

Read = Callable[[str | Path], "ImageFile"]


@dataclass(frozen=True)
class RequestLine:
    """A request with its picture's bytes, and the line of the file that it is from."""

    image: ImageFile = field(repr=False)
    prompt: str
    target: str
    line: int = 1

    @property
    def subject(self) -> tuple[bytes, str]:
        """Tell what it is about: a later request of the same subject supersedes it."""
        return self.image.data, self.prompt


@dataclass(frozen=True)
class BadLine:
    """A line of a file that is no request, and why."""

    line: int
    reason: str


def check_text(name: str, text) -> str:
    """Refuse a prompt or target that cannot be stored.

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


def read_picture(file: str | Path) -> ImageFile:
    """Read an image file, and look at its header alone: it is decoded by the model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image.
    """
    from PIL import Image, UnidentifiedImageError

    from liveedit_jax.session.images import read_image

    image = read_image(file)
    try:
        Image.open(io.BytesIO(image.data)).close()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = str(error).replace("cannot identify image file", "unknown format").split(" <")[0]
        raise ValueError(f"{file} is not a readable image ({reason}); use a PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{file} is too large ({error}); shrink it first") from error
    return image


def request_of(
    image: str | Path, prompt, target, line: int = 1, read: Read = read_picture
) -> RequestLine:
    """Make one request.

    Raises:
        FileNotFoundError: no such image.
        ValueError: not an image, an empty prompt or target.
    """
    check_text("prompt", prompt)
    check_text("target", target)
    return RequestLine(read(image), prompt, target, line)


def _parse(line: bytes, number: int, home: Path, read: Read) -> RequestLine:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError('not an object like {"image": ..., "prompt": ..., "target": ...}')
    missing = [name for name in ("image", "prompt", "target") if name not in fields]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    unknown = sorted(fields.keys() - {"image", "prompt", "target"})
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
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}")
    read, found = cache(read_picture), []  # a picture of many edits is read once
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_parse(line, number, file.parent, read))
        except (ValueError, OSError) as error:
            found.append(BadLine(number, str(error)))
    if not found:
        raise ValueError(f"{file} holds no edits")
    return found


def store(
    editor: EditingSession, lines: Sequence[RequestLine | BadLine], file: str | None, check: bool
) -> Iterator[EditResult]:
    """Store every good request; bad lines are told at the end.

    What a run that was cut short has stored is found again and not stored twice.

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
    asked = [last[line.subject] for line in good]
    known = [editor.find(line.image, line.prompt, line.target) for line in asked]

    waiting, stored_n = [], 0

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

    for line, edit_id in zip(good, known, strict=True):
        if edit_id is not None:
            yield from flush()
            stored_n += 1
            yield EditResult(edit_id)
            continue
        try:
            waiting.append((line.line, editor.read(line.image, line.prompt, line.target)))
        except ValueError as error:
            if file is None:
                raise
            bad.append(BadLine(line.line, str(error)))
        if len(waiting) == BATCH_N:
            yield from flush()
    yield from flush()
    if bad:
        raise ValueError(_bad_lines(file, bad, stored_n))


def _bad_lines(file: str, bad: Sequence[BadLine], stored_n: int) -> str:
    """Name the bad lines of a file, the first with its reason."""
    first, *rest = sorted(bad, key=lambda each: each.line)
    more = ""
    if rest:
        named = ", ".join(str(each.line) for each in rest[:9]) + ("..." if len(rest) > 9 else "")
        more = f" (and {len(rest)} more bad lines: {named})"
    kept = f"the edits of the other {stored_n} lines are stored"
    return f"{file} line {first.line}: {first.reason}{more}; {kept}"
