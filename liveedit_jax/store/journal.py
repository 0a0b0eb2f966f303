"""The append-only journal: one JSON line an operation, each with its own checksum.

    {"crc32":"0a1b2c3d","record":{...}}\\n

The checksum is over the record's bytes as written. An append is one write followed by fsync, so a
kill leaves at most an unfinished last line; it was never acknowledged and is left out on reading.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from liveedit_jax.store.durable import replace_file, sync_folder, write_at

_HEAD = b'{"crc32":"'  # starts every line; inside a record its quotes are escaped
_LINE = re.compile(rb'\{"crc32":"([0-9a-f]{8})","record":(\{.*\})\}', re.DOTALL)


def encode_line(record: dict) -> bytes:
    """One journal line, newline included."""
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    return b'{"crc32":"%08x","record":%s}\n' % (zlib.crc32(body), body)


def decode_line(line: bytes) -> dict | None:
    """The record of one line (without its newline), or None where the checksum does not hold."""
    match = _LINE.fullmatch(line)
    if match is None or int(match[1], 16) != zlib.crc32(match[2]):
        return None
    return json.loads(match[2])


@dataclass(frozen=True)
class Content:
    """What a journal holds: its whole records, how many bytes they take, what follows them."""

    records: list[dict]
    whole_n: int
    torn: bytes


def read_journal(file: Path) -> Content:
    """All whole records; a damaged last line is given back as `torn`, not as a record.

    Raises:
        ValueError: a line that is not the last is damaged; nothing is changed on disk.
    """
    data = file.read_bytes()
    records, at = [], 0
    while at < len(data):
        end = data.find(b"\n", at)
        record = None if end < 0 else decode_line(data[at:end])
        if record is None:
            # More data than one line behind it is no unfinished append but damage.
            if 0 <= end < len(data) - 1 or _HEAD in data[at + 1 :]:
                raise ValueError(
                    f"{file} is damaged at line {len(records) + 1} (its checksum does not hold); "
                    "nothing was changed, restore this file from a backup"
                )
            break
        records.append(record)
        at = end + 1
    return Content(records, at, data[at:])


class Journal:
    """An open journal that only grows; one writer at a time (the folder's lock sees to it)."""

    def __init__(self, file: Path):
        """Open for appending; a torn last line is moved to a file of its own beside the journal."""
        content = read_journal(file)
        if content.torn:
            aside = file.with_name(f"torn-after-{len(content.records)}-{os.urandom(4).hex()}")
            replace_file(aside, content.torn)
        self.records = content.records
        self.torn_n = len(content.torn)
        self._end = content.whole_n
        self._handle = os.open(file, os.O_RDWR)
        if content.torn:
            os.ftruncate(self._handle, self._end)
            os.fsync(self._handle)

    def append(self, records: list[dict]) -> None:
        """Write records; they are durable when this returns, and gone if it raises.

        Raises:
            OSError: the disk is full or failing.
        """
        data = b"".join(encode_line(record) for record in records)
        try:
            write_at(self._handle, data, self._end)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._end)
            raise
        self._end += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def create_journal(file: Path, records: list[dict]) -> None:
    """A new journal with these records, durable."""
    replace_file(file, b"".join(encode_line(record) for record in records))
    sync_folder(file.parent)
