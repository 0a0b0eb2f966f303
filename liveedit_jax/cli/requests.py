"""Edit requests from a command line or a JSON-lines file, checked before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BATCH_N = 16


@dataclass(frozen=True)
class Wish:
    """A checked request: the picture's bytes are those of a whole image."""

    image: bytes
    prompt: str
    target: str
    line: int = 1


@dataclass(frozen=True)
class Bad:
    """A line of a file that is no request, and why."""

    line: int
    reason: str


def check_text(name: str, text) -> str:
    """A prompt or target that can be stored.

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


def read_image(file: str | Path) -> bytes:
    """The bytes of an image file, after a check that they decode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable image.
    """
    from liveedit_jax.data.images import decode_image, read_bytes

    data = read_bytes(file)
    decode_image(data, 8, str(file))
    return data


def check(image: str | Path, prompt, target, line: int = 1) -> Wish:
    """One request.

    Raises:
        FileNotFoundError: no such image.
        ValueError: an unreadable image, an empty prompt or target.
    """
    check_text("prompt", prompt)
    check_text("target", target)
    return Wish(read_image(image), prompt, target, line)


def _parse(line: bytes, number: int, home: Path) -> Wish:
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
    beside = home / image
    return check(beside if beside.is_file() else image, fields["prompt"], fields["target"], number)


def read_lines(file: Path) -> list[Wish | Bad]:
    """All lines of a JSON-lines file; image names are relative to it, else to the working folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no line at all.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}")
    found: list[Wish | Bad] = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_parse(line, number, file.parent))
        except (ValueError, OSError) as error:
            found.append(Bad(number, str(error)))
    if not found:
        raise ValueError(f"{file} holds no edits")
    return found


def apply(editor, lines: Sequence[Wish | Bad], file: str | None) -> Iterator[int]:
    """Store every good request, giving each id once it is durable; bad lines are told at the end.

    What a run that was cut short has stored is found again and not stored twice.

    Raises:
        ValueError: naming the bad lines; the edits of all other lines are stored.
        OverflowError: the repository is full; those given before are stored.
    """
    bad = [line for line in lines if isinstance(line, Bad)]
    wishes: list[Wish] = []
    for line in lines:
        if isinstance(line, Bad):
            continue
        try:
            editor.check(line.image, line.prompt, line.target)
            wishes.append(line)
        except ValueError as error:
            bad.append(Bad(line.line, str(error)))
    if file is None and bad:
        raise ValueError(bad[0].reason)

    final = {(wish.image, wish.prompt): wish for wish in wishes}
    stored_n = 0

    def settled(wish: Wish) -> int | None:  # live already, with what the file says last about it
        last = final[wish.image, wish.prompt]
        return editor.find(last.image, last.prompt, last.target)

    done = {id(wish): settled(wish) for wish in wishes}
    run: list[Wish] = []
    try:
        for i, wish in enumerate(wishes):
            if done[id(wish)] is None:
                run.append(wish)
                full = len(run) == BATCH_N
                if not full and i + 1 < len(wishes) and done[id(wishes[i + 1])] is None:
                    continue
            if run:
                for edit_id in editor.edit_many([(w.image, w.prompt, w.target) for w in run]):
                    stored_n += 1
                    yield edit_id
                run = []
            if done[id(wish)] is not None:
                stored_n += 1
                yield done[id(wish)]
    except OverflowError as error:
        if file is None:
            raise
        at = wishes[stored_n].line
        raise OverflowError(
            f"{file} line {at}: {error} (the lines before it are stored)"
        ) from error
    if bad:
        bad.sort(key=lambda each: each.line)
        more = f" (and {len(bad) - 1} more bad lines: " if len(bad) > 1 else ""
        more += ", ".join(str(each.line) for each in bad[1:10]) + (
            ("..." if len(bad) > 10 else "") + ")" if more else ""
        )
        rest = f"; the edits of the other {len(wishes)} lines are stored"
        raise ValueError(f"{file} line {bad[0].line}: {bad[0].reason}{more}{rest}")
