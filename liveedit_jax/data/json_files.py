"""The reader of JSON that others wrote: settings, annotations, lines of edits.

Whatever is wrong with such a text becomes a ValueError of one line that names it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from liveedit_jax.data.files import read_file

FILE_MOST = 2**26  # bytes of a JSON file: as Python objects it may take twenty times that
LINE_MOST = 2**20  # bytes of a line of a JSON-lines file


def parse_json(text: bytes, name: str | Path) -> Any:
    """Parse a JSON text in UTF-8, with or without a byte order mark.

    Args:
        text: the encoded text.
        name: what an error calls it.

    Raises:
        ValueError: it is not strictly JSON (NaN and Infinity are none), is nested too deeply, has
            a number of thousands of digits, or names a key of an object twice.
    """
    try:
        return json.loads(
            text.decode("utf-8-sig"), parse_constant=_refuse, object_pairs_hook=_make_object
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not valid JSON (byte {error.start} is not UTF-8)") from error
    except RecursionError:
        raise ValueError(f"{name} is not valid JSON (it is nested too deeply)") from None
    except ValueError as error:
        reason = "a number is too long" if "integer string" in str(error) else error
        raise ValueError(f"{name} is not valid JSON ({reason})") from error


def read_json(file: str | Path, most: int = FILE_MOST) -> Any:
    """Read a JSON file.

    Args:
        file: the file.
        most: bytes that it may have.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be read.
        ValueError: as `parse_json`, or it has more bytes.
    """
    return parse_json(read_file(file, most), file)


def read_lines(file: str | Path) -> Iterator[tuple[int, bytes | None]]:
    r"""Read the lines of a file that are not blank, one at a time, with their numbers from 1.

    Lines end with "\n" alone. A line of more than LINE_MOST bytes is passed over and given as None.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be read.
    """
    path, number = Path(file), 0
    if not path.is_file():
        raise FileNotFoundError(f"no file at {file}")
    with path.open("rb") as opened:
        while line := opened.readline(LINE_MOST + 1):
            number += 1
            is_long = len(line) > LINE_MOST
            while len(line) > LINE_MOST and not line.endswith(b"\n"):
                line = opened.readline(LINE_MOST + 1)
            if is_long:
                yield number, None
            elif line.strip():
                yield number, line


def _refuse(literal: str):
    raise ValueError(f"{literal} is no number")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return made
