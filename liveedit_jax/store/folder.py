"""One repository folder on disk: header, lock, journal, expert rows and images.

    header.json            format, model hashes, row shapes, which generation is current
    generation-N/journal.jsonl
    generation-N/experts/  raw float32 segments
    images/                pictures of edits by sha256
    lock                   held by the one process that writes

The order of writes makes an edit durable: image, expert row, journal line, each fsynced; only then
is its id given out. `rebuild` writes a whole new generation and switches by replacing header.json.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from liveedit_jax.store.durable import replace_file, sync_folder
from liveedit_jax.store.history import Edit, History, Request, replay
from liveedit_jax.store.images import get_image, put_image
from liveedit_jax.store.journal import (
    Journal,
    create_journal,
    decode_line,
    encode_line,
    read_journal,
)
from liveedit_jax.store.lock import take_lock
from liveedit_jax.store.segments import (
    DamagedRow,
    Shapes,
    next_row,
    pack,
    read_rows,
    row_bytes,
    unpack,
    write_rows,
)

FORMAT = 2  # 1: a header without a checksum


@dataclass(frozen=True)
class Header:
    """What must be known before a journal can be used."""

    backbone_sha256: str
    editor_sha256: str
    shapes: Shapes
    generation: int = 1
    format: int = FORMAT

    def check_model(
        self, folder: Path, backbone_sha256: str, editor_sha256: str, model: str | Path
    ) -> None:
        """Refuse another model than the one that made the experts.

        Args:
            folder: the repository.
            backbone_sha256, editor_sha256: of the model.
            model: what a person calls it, so that the error says how to go on.

        Raises:
            ValueError: the backbone or the editor differs.
        """
        for part, own, given in (
            ("backbone", self.backbone_sha256, backbone_sha256),
            ("editor", self.editor_sha256, editor_sha256),
        ):
            if own != given:
                raise ValueError(
                    f"the edits in {folder} were made with another {part} (sha256 {own[:12]}, this "
                    f"model has {given[:12]}): open them with the model that made them, or "
                    f"re-make them with this one: {rebuild_command(folder, str(model))}"
                )


def rebuild_command(folder: Path, model: str = "MODEL") -> str:
    """What a person types to re-make a repository's experts."""
    return f"`liveedit rebuild --repo {shlex.quote(str(folder))} --model {shlex.quote(model)}`"


def read_header(folder: Path) -> Header:
    """The header of a repository folder.

    Raises:
        FileNotFoundError: there is no repository.
        ValueError: the header is damaged or of a newer format.
    """
    file = folder / "header.json"
    if not file.is_file():
        command = f"`liveedit edit --repo {shlex.quote(str(folder))} ...`"
        raise FileNotFoundError(f"no edit repository at {folder}; {command} makes one")
    try:
        data = file.read_bytes()
        fields = decode_line(data.removesuffix(b"\n"))
        if fields is None:  # format 1 had no checksum; nothing newer reads as such
            fields = json.loads(data)
            if fields["format"] != 1:
                raise ValueError("a header of format 2 or later has a checksum")
            fields["format"] = FORMAT
        shapes = {name: tuple(shape) for name, shape in fields["shapes"].items()}
        header = Header(**{**fields, "shapes": shapes})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged; restore it from a backup") from error
    if header.format != FORMAT:
        raise ValueError(f"{folder} has format {header.format}, this version reads format {FORMAT}")
    return header


def write_header(folder: Path, header: Header) -> None:
    """Replace the header in one step."""
    replace_file(folder / "header.json", encode_line(asdict(header)))


def generation_folder(folder: Path, generation: int) -> Path:
    """Where one generation's journal and experts are."""
    return folder / f"generation-{generation}"


def create_generation(folder: Path, generation: int, records: list[dict]) -> Path:
    """A generation's folder with its journal; current only once the header says so."""
    home = generation_folder(folder, generation)
    (home / "experts").mkdir(parents=True, exist_ok=True)
    create_journal(home / "journal.jsonl", records)
    sync_folder(folder)
    return home


class Store:
    """An open repository folder: what lives in it, and the operations that change it durably."""

    def __init__(self, folder: Path, header: Header, lock: int | None):
        """Use `open_store`. Without `lock` the store is a snapshot that cannot be changed."""
        self.folder, self.header, self._lock = folder, header, lock
        self.generation = generation_folder(folder, header.generation)
        self._experts, journal_file = self.generation / "experts", self.generation / "journal.jsonl"
        if lock is None:
            content = read_journal(journal_file)
            records, self.torn_n = content.records, len(content.torn)
            self._journal = None
        else:
            self._journal = Journal(journal_file)
            records, self.torn_n = self._journal.records, self._journal.torn_n
        try:
            self.history: History = replay(records)
        except ValueError as error:
            raise ValueError(f"{journal_file}: {error}; restore it from a backup") from error

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(self, *_) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Give the lock back. Everything was durable before."""
        if self.writable:
            self._journal.close()
            os.close(self._lock)
            self._journal = self._lock = None

    def records(self) -> list[dict]:
        """Every operation ever recorded, oldest first."""
        return read_journal(self.generation / "journal.jsonl").records[: self.history.seq]

    @property
    def writable(self) -> bool:
        """Whether this store may be changed."""
        return self._journal is not None

    def add_image(self, data: bytes) -> str:
        """Keep a picture; returns its sha256."""
        return put_image(self.folder / "images", data)

    def image(self, sha256: str) -> bytes:
        """A kept picture's bytes, checked."""
        return get_image(self.folder / "images", sha256)

    def find(self, request: Request) -> int | None:
        """The id of the live edit that says exactly this, if there is one."""
        edit_id = self.history.live.get(request.subject)
        same = edit_id is not None and self.history.edits[edit_id].request == request
        return edit_id if same else None

    def fitting_n(self, requests: Sequence[Request], max_edits: int) -> int:
        """How many leading requests fit `max_edits` live edits; a superseding one takes no room.

        Raises:
            OverflowError: not even the first one fits.
        """
        live, live_n = self.history.live, len(self.history.live)
        fresh = set()
        for i, request in enumerate(requests):
            if request.subject not in live:
                fresh.add(request.subject)
            if fresh and live_n + len(fresh) > max_edits:
                if i:
                    return i
                raise OverflowError(
                    f"the repository {self.folder} is full: {live_n} live edits of at most "
                    f"{max_edits}; forget some or raise --max-edits"
                )
        return len(requests)

    def add_edits(
        self,
        requests: Sequence[Request],
        arrays: dict[str, np.ndarray],
        files: Sequence[str | None] | None = None,
    ) -> list[int]:
        """Store edits with their experts' arrays [N, ...]; durable when their ids come back.

        `files` are the names of the pictures' files (None: not known).
        """
        packed = pack(self.header.shapes, arrays)
        if len(packed) != len(requests):
            raise ValueError(f"{len(requests)} requests with {len(packed)} experts")
        first = next_row(self._experts, packed.shape[1])
        crcs = write_rows(self._experts, first, packed)
        rows = range(first, first + len(packed))
        records = self.history.edit_records(requests, rows, crcs, files)
        self._commit(records)
        return [record["id"] for record in records]

    def forget(self, edit_id: int) -> None:
        """Forget one live edit (ValueError when it is not)."""
        self._commit([self.history.forget_record(edit_id)])

    def rollback(self, operations_n: int) -> None:
        """Undo the last operations (ValueError when there are not so many)."""
        self._commit([self.history.rollback_record(operations_n)])

    def _commit(self, records: list[dict]) -> None:
        if not self.writable:
            raise ValueError(f"{self.folder} is open for reading only")
        self._journal.append(records)
        for record in records:
            self.history.apply(record)

    def experts(self, edits: Sequence[Edit]) -> dict[str, np.ndarray]:
        """The arrays [N, ...] of these edits' experts.

        Raises:
            ValueError: a stored expert is damaged; its request is not, so it can be re-made.
        """
        rows, crcs = [edit.row for edit in edits], [edit.row_crc32 for edit in edits]
        try:
            packed = read_rows(self._experts, rows, crcs, row_bytes(self.header.shapes))
        except DamagedRow as error:
            raise ValueError(
                f"the stored expert of edit {edits[error.index].id} is damaged; "
                f"{rebuild_command(self.folder)}, with the model that made it, re-makes it from "
                "its request"
            ) from error
        return unpack(self.header.shapes, packed)


def _create(folder: Path, header: Header) -> None:
    """Make a new repository, under the lock; a half-made one (killed here before) is made again."""
    journal = generation_folder(folder, header.generation) / "journal.jsonl"
    if journal.is_file() and journal.stat().st_size:
        raise ValueError(f"{folder} has a journal but no header.json; restore it from a backup")
    (folder / "images").mkdir(exist_ok=True)
    create_generation(folder, header.generation, [])
    write_header(folder, header)


def open_store(folder: str | Path, write: bool = False, create: Header | None = None) -> Store:
    """Open a repository folder.

    Args:
        folder: where it is.
        write: take the write lock; otherwise a snapshot, which works beside a writer.
        create: the header of a new repository, should there be none (needs `write`).

    Raises:
        FileNotFoundError: no repository, and none to be made.
        BlockingIOError: another process is writing.
        ValueError: the folder is damaged, or holds something else.
    """
    folder = Path(folder)
    if not write:
        header = read_header(folder)
        while True:
            try:
                return Store(folder, header, None)
            except FileNotFoundError:  # a rebuild may have switched generations just now
                before, header = header, read_header(folder)
                if before == header:
                    raise
    if create is None:
        read_header(folder)
    elif not (folder / "header.json").exists():
        foreign = folder.is_dir() and any(
            not (
                entry.name in ("lock", "images")
                or entry.name.startswith(("generation-", ".header"))
            )
            for entry in folder.iterdir()
        )
        if foreign:
            raise ValueError(
                f"{folder} holds other files and no edit repository; choose a new folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.resolve().parent)
    lock = take_lock(folder)
    try:
        if create is not None and not (folder / "header.json").exists():
            _create(folder, create)
        return Store(folder, read_header(folder), lock)
    except BaseException:
        os.close(lock)
        raise
