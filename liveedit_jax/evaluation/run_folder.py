"""The folder of a run. Files are written whole, so that an interrupted run can be resumed."""

from __future__ import annotations

import hashlib
import json
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


@dataclass(frozen=True)
class RunFolder:
    """The folder that holds a run's finished parts and, in the end, its results."""

    path: Path

    @property
    def work(self) -> Path:
        """Return the folder of the finished parts of an unfinished run."""
        return self.path / "work"

    def has(self, part: str) -> bool:
        """Return whether a part is finished."""
        return (self.work / f"{part}.json").is_file()

    def read(self, part: str) -> Any | None:
        """Read a finished part; None if it is not there."""
        file = self.work / f"{part}.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else None

    def write(self, part: str, value: Any) -> None:
        """Save a finished part."""
        write_atomic(self.work / f"{part}.json", json.dumps(value, ensure_ascii=False))

    def parts(self, prefix: str) -> Iterator[Any]:
        """Yield the finished parts whose names start with `prefix`, in the order of the names."""
        for file in sorted(self.work.glob(f"{prefix}*.json")):
            yield json.loads(file.read_text("utf-8"))


def settings_hash(settings: dict) -> str:
    """Return the sha256 of settings; the order of their keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def open_run(path: str | Path, settings: dict, pictures: Path | None = None) -> RunFolder:
    """Open the folder of a new run, or of an earlier run with the same settings.

    Args:
        path: the folder.
        settings: what identifies the run; written to `config.json`.
        pictures: the folder of a benchmark's pictures; noted beside the settings, not compared.

    Raises:
        ValueError: the folder holds a run with other settings, or is no folder.
    """
    path, settings = Path(path), json.loads(json.dumps(settings))
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a folder; give another --out")
    file = path / "config.json"
    if file.is_file():
        try:
            before = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON; give another --out") from error
        if before.get("sha256") != settings_hash(settings):
            known = before.get("settings", {})
            differ = [k for k in settings if settings[k] != known.get(k)]
            raise ValueError(
                f"{path} holds a run with other settings (different: {', '.join(differ) or 'all'});"
                " give another --out or delete that folder"
            )
    folder = RunFolder(path)
    folder.work.mkdir(parents=True, exist_ok=True)
    content = {"sha256": settings_hash(settings), "settings": settings}
    if pictures is not None:
        content["pictures"] = str(pictures.absolute())
    write_atomic(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return folder
