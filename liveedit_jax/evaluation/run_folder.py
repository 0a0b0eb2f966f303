"""The folder of a run: results come in whole files, and a killed run takes up where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveedit_jax.store.durable import replace_file, replacing


def write_atomic(file: Path, text: str) -> None:
    """All of `text`, or the file as it was."""
    replace_file(file, text.encode())


def write_lines(file: Path, lines: Iterable[dict]) -> None:
    """A JSON-lines file, whole or as it was."""
    with replacing(file) as out:
        for line in lines:
            out.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


@dataclass(frozen=True)
class RunFolder:
    """Where a run's parts are kept until it is finished, and its results afterwards."""

    path: Path

    @property
    def work(self) -> Path:
        """Finished parts of an unfinished run."""
        return self.path / "work"

    def has(self, part: str) -> bool:
        """Whether a part is finished."""
        return (self.work / f"{part}.json").is_file()

    def read(self, part: str) -> Any | None:
        """A finished part, or None."""
        file = self.work / f"{part}.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else None

    def write(self, part: str, value: Any) -> None:
        """Keep a finished part."""
        write_atomic(self.work / f"{part}.json", json.dumps(value, ensure_ascii=False))

    def parts(self, prefix: str) -> Iterator[Any]:
        """Finished parts whose names start so, in the order of their names."""
        for file in sorted(self.work.glob(f"{prefix}*.json")):
            yield json.loads(file.read_text("utf-8"))


def settings_hash(settings: dict) -> str:
    """The sha256 of settings, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def open_run(path: str | Path, settings: dict, pictures: Path | None = None) -> RunFolder:
    """A new run's folder, or that of a killed run with the same settings.

    `pictures`, where a benchmark's own are, is noted beside the settings and is none of them.

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
