"""The folder of a run. Files are written whole, so that an interrupted run can be resumed.

One process at a time computes into it. What an earlier one finished is taken only where its
checksum holds, which covers the settings, so that no part of another run or other code gets in.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveedit_jax.store.durable import replace_file, replacing


def write_atomic(file: Path, text: str) -> None:
    """Write a text file atomically: afterwards it is all there, or as it was before."""
    replace_file(file, text.encode())


def write_lines(file: Path, lines: Iterable[dict]) -> None:
    """Write a JSON-lines file atomically."""
    with replacing(file) as out:
        for line in lines:
            out.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


@dataclass(frozen=True, eq=False)
class RunFolder:
    """The folder that holds a run's finished parts and, in the end, its results.

    It is a context manager: when it is left, another process may go on.
    """

    path: Path
    settings_sha256: str = ""  # of the run, part of every checksum
    lock: sqlite3.Connection | None = None  # held by the process that computes

    def __enter__(self) -> RunFolder:
        """Return itself."""
        return self

    def __exit__(self, *_) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let another process go on with the run."""
        if self.lock is not None:
            self.lock.close()

    @property
    def work(self) -> Path:
        """Return the folder of the finished parts of an unfinished run."""
        return self.path / "work"

    def has(self, part: str) -> bool:
        """Return whether a part is finished and whole."""
        return self._whole(part) is not None

    def read(self, part: str) -> Any | None:
        """Read a finished part; None if it is not there, is damaged or is another run's."""
        text = self._whole(part)
        return None if text is None else json.loads(text)

    def _whole(self, part: str) -> bytes | None:
        file = self.work / f"{part}.json"
        if not file.is_file():
            return None
        checksum, _, text = file.read_bytes().partition(b"\n")
        return text if checksum == self._checksum(part, text) else None

    def write(self, part: str, value: Any) -> None:
        """Save a finished part, which is not None."""
        text = json.dumps(value, ensure_ascii=False).encode()
        replace_file(self.work / f"{part}.json", self._checksum(part, text) + b"\n" + text)

    def _checksum(self, part: str, text: bytes) -> bytes:
        digest = hashlib.sha256(f"{self.settings_sha256} {part} ".encode())
        digest.update(text)
        return digest.hexdigest().encode()

    def parts(self, prefix: str) -> Iterator[Any]:
        """Yield the finished parts whose names start with `prefix`, in the order of the names.

        Raises:
            ValueError: one of them was damaged since it was written.
        """
        for file in sorted(self.work.glob(f"{prefix}*.json")):
            found = self.read(file.stem)
            if found is None:
                raise ValueError(f"{file} was damaged: start the same command again")
            yield found

    def finish(self) -> None:
        """Remove the parts, once everything is in the results."""
        self.close()
        shutil.rmtree(self.work)


def settings_hash(settings: dict) -> str:
    """Return the sha256 of settings; the order of their keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def open_run(path: str | Path, settings: dict, pictures: Path | None = None) -> RunFolder:
    """Open the folder of a new run, or of an earlier run with the same settings.

    A folder without `results.json` is locked until the result is closed, or the process ends.

    Args:
        path: the folder.
        settings: what identifies the run; written to `config.json`.
        pictures: the folder of a benchmark's pictures; noted beside the settings, not compared.

    Raises:
        OSError: it cannot be written to or locked.
        ValueError: the folder holds a run with other settings, is no folder, or another process
            computes into it.
    """
    path, settings = Path(path), json.loads(json.dumps(settings))
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a folder; give another --out")
    digest = settings_hash(settings)
    if (path / "config.json").is_file():
        _check_same(path, settings, digest)
    if (path / "results.json").is_file():
        return RunFolder(path, digest)
    (path / "work").mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path, digest, _lock(path))
    if (path / "results.json").is_file():  # another process has just finished it
        folder.finish()
        return folder
    if (path / "config.json").is_file():
        _check_same(path, settings, digest)  # again, now that no other process may write it
    content = {"sha256": digest, "settings": settings}
    if pictures is not None:
        content["pictures"] = str(pictures.absolute())
    write_atomic(path / "config.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return folder


def _check_same(path: Path, settings: dict, digest: str) -> None:
    """Refuse a folder that holds a run with other settings."""
    file = path / "config.json"
    try:
        before = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON; give another --out") from error
    if not isinstance(before, dict) or not isinstance(before.get("settings", {}), dict):
        raise ValueError(f"{file} is of no run; give another --out")
    if before.get("sha256") != digest:
        known = before.get("settings", {})
        differ = [k for k in settings if settings[k] != known.get(k)]
        raise ValueError(
            f"{path} holds a run with other settings (different: {', '.join(differ) or 'all'});"
            " give another --out or delete that folder"
        )


def _lock(path: Path) -> sqlite3.Connection:
    """Lock a run folder until the connection is closed or the process ends, however it does.

    SQLite knows how on every system.
    """
    file = path / "work" / "lock"
    lock = sqlite3.connect(file, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("PRAGMA journal_mode=MEMORY")
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise ValueError(
                f"another process is evaluating into {path}: wait until it ends, or give another "
                "--out"
            ) from error
        raise OSError(
            f"{path} cannot be locked ({error}): give an --out on another disk"
        ) from error
    return lock
