"""Cases and their probes: the questions asked after the edits, independent of the benchmark."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from liveedit_jax.evaluation.metrics import EDIT


@dataclass(frozen=True, eq=False)
class Probe:
    """One question of a metric: its prompt, its target, and its picture."""

    metric: str  # a name of METRICS
    prompt: str
    target: str
    image: bytes | Path | None  # an encoded picture, or its file; None: no picture
    file: str | None = None  # the picture's file name in the benchmark


def image_key(image: bytes | Path | None) -> bytes:
    """Return a key that is equal for equal pictures; empty without a picture."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    return b"" if image is None else str(image).encode()


@lru_cache(maxsize=2**14)
def picture_sha256(image: bytes | Path) -> str:
    """Compute the sha256 of a picture's bytes, which tells a report that it has the same one."""
    return hashlib.sha256(image if isinstance(image, bytes) else image.read_bytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Case:
    """One edit of the stream with all questions about it, the edit request included.

    A metric may have several probes, or none; then it does not count this case.
    """

    entity: str
    fact: str
    probes: tuple[Probe, ...]

    @property
    def edit(self) -> Probe:
        """Return the edit request, which is asked back after the edit."""
        return self.probes_of(EDIT)[0]

    def probes_of(self, metric: str) -> list[Probe]:
        """List the probes of a metric."""
        return [probe for probe in self.probes if probe.metric == metric]


def key_of(line: dict) -> tuple[int, str, int]:
    """Return what identifies a line at a mark: its case, its metric, which probe of the metric."""
    return line["case"], line["probe"], line.get("nth", 0)
