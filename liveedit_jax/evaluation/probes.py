"""What is asked after the edits: the probes of one case, in a form that no benchmark owns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, eq=False)
class Probe:
    """One question: its text, the text that is compared with, and its picture."""

    prompt: str
    target: str
    image: bytes | Path | None  # an encoded picture, or its file; None: no picture
    file: str | None = None  # how the benchmark names that file


@dataclass(frozen=True, eq=False)
class Case:
    """One edit of the stream and what is asked about it; `reliability` is the edit itself."""

    entity: str
    fact: str
    probes: dict[str, Probe]  # by metric; one that is missing is not counted
