"""Edits as JSON lines with their pictures, to move them between models, repositories and people.

{"prompt": "What is this?", "target": "a cat", "image": "<base64>", "image_file": "cat.png"}
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from liveedit_jax.data.json_files import parse_json, read_json
from liveedit_jax.session.editing_session import EditingSession, ReadRequest
from liveedit_jax.session.images import ImageFile
from liveedit_jax.session.model import BATCH_N
from liveedit_jax.store import Store, image_sha256
from liveedit_jax.store.durable import replacing

Row = tuple[str, Callable[[], tuple[ImageFile, str, str]]]  # where it is, and how it is read


@dataclass(frozen=True)
class Transferred:
    """Count the edits that were written or stored, and say why others were not."""

    edits_n: int
    refused: dict[str, str]  # where each is -> why


def export_edits(store: Store, file: Path) -> Transferred:
    """Write the live edits and their pictures to a new file, oldest first.

    An edit whose picture is damaged is left out by name.

    Raises:
        FileExistsError: something is at `file`.
        OSError: it cannot be written; then there is no file.
    """
    if file.exists():
        raise FileExistsError(f"{file} is there already; choose a new name")
    edits_n = 0
    refused: dict[str, str] = {}
    with replacing(file) as out:
        for edit in store.history.live_edits():
            request = edit.request
            try:
                picture = base64.b64encode(store.picture(request.image)).decode()
            except ValueError as error:
                refused[f"edit {edit.id}"] = str(error)
                continue
            row = {"prompt": request.prompt, "target": request.target, "image": picture}
            if edit.file is not None:
                row["image_file"] = edit.file
            out.write(json.dumps(row).encode() + b"\n")
            edits_n += 1
    return Transferred(edits_n, refused)


def import_edits(
    editor: EditingSession, source: Path, tick: Callable[[int], Any] = lambda n: None
) -> Transferred:
    """Store the edits of a file that `export_edits` wrote, or of an old repository folder.

    Edits that live already are passed over, so an import that was stopped can be run again.

    Args:
        editor: a session that may write.
        source: the file, or the folder that was a repository.
        tick: hears how many more are durable.

    Raises:
        FileNotFoundError, ValueError: there is no such source.
        OverflowError: the repository is full; those before are stored.
    """
    rows = _folder_rows(source) if source.is_dir() else _file_rows(source)
    waiting: list[ReadRequest] = []
    refused: dict[str, str] = {}
    edits_n = 0

    def store_waiting() -> int:
        stored_n = 0
        while waiting:
            added = editor.add(waiting)
            del waiting[: len(added.ids)]
            stored_n += len(added.ids)
            tick(len(added.ids))
        return stored_n

    for where, read in rows:
        try:
            image, prompt, target = read()
            request = editor.read(image, prompt, target)
        except (ValueError, TypeError, OSError) as error:
            refused[where] = str(error)
            continue
        if request.stored.subject in {each.stored.subject for each in waiting}:
            edits_n += store_waiting()  # the later one has the last word
        if editor.store.find(request.stored) is not None:
            edits_n += 1
            continue
        waiting.append(request)
        if len(waiting) == BATCH_N:
            edits_n += store_waiting()
    return Transferred(edits_n + store_waiting(), refused)


def _file_rows(file: Path) -> Iterator[Row]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"line {number}", partial(_parse, line)


def _parse(line: bytes) -> tuple[ImageFile, str, str]:
    row = parse_json(line, "it")
    names = {"prompt": str, "target": str, "image": str}
    if not isinstance(row, dict) or not all(isinstance(row.get(n), t) for n, t in names.items()):
        raise ValueError("not an object with the texts prompt, target and image")
    name = row.get("image_file")
    if not isinstance(name, str | None):
        raise ValueError("image_file is not a text")
    try:
        picture = base64.b64decode(row["image"], validate=True)
    except ValueError:
        raise ValueError("image is not base64") from None
    return ImageFile(picture, name), row["prompt"], row["target"]


def _folder_rows(folder: Path) -> Iterator[Row]:
    """Replay the journal of a repository folder, as they were before the SQLite file."""
    try:
        header = read_json(folder / "header.json")
        home = folder / f"generation-{header.get('record', header)['generation']}"
        edits: dict[int, dict] = {}
        live: dict[tuple[str, str], int | None] = {}
        done: list[dict] = []
        for line in (home / "journal.jsonl").read_bytes().split(b"\n")[:-1]:
            record = parse_json(line, "journal.jsonl")["record"]
            if record["op"] == "edit":
                edits[record["id"]] = record
            for last in [record] if record["op"] != "rollback" else _undone(done, record):
                edit = edits[last["id"]]
                ends, before = last["op"] == "forget", last.get("supersedes")
                if record["op"] == "rollback":
                    now = edit["id"] if ends else before
                else:
                    done.append(last)
                    now = None if ends else edit["id"]
                live[edit["image"], edit["prompt"]] = now
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{folder} is no repository folder, or it is damaged") from error
    for edit_id in sorted(i for i in live.values() if i is not None):
        yield f"edit {edit_id}", partial(_read_old, folder, edits[edit_id])


def _undone(done: list[dict], rollback: dict) -> list[dict]:
    return [done.pop() for _ in range(rollback["operations_n"])]


def _read_old(folder: Path, edit: dict) -> tuple[ImageFile, str, str]:
    data = (folder / "images" / edit["image"]).read_bytes()
    if image_sha256(data) != edit["image"]:
        raise ValueError("its picture is damaged")
    return ImageFile(data, edit.get("file")), edit["prompt"], edit["target"]
