"""What is asked after the edits: the probes of one case, in a form that no benchmark owns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from liveedit_jax.evaluation.metrics import EDIT


@dataclass(frozen=True, eq=False)
class Probe:
    """One question of a metric: its text, the text that is compared with, and its picture."""

    metric: str  # a name of METRICS
    prompt: str
    target: str
    image: bytes | Path | None  # an encoded picture, or its file; None: no picture
    file: str | None = None  # how the benchmark names that file


def image_key(image: bytes | Path | None) -> bytes:
    """Make what two probes with the same picture share."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    return b"" if image is None else str(image).encode()


@dataclass(frozen=True, eq=False)
class Case:
    """One edit of the stream and what is asked about it, the edit itself included.

    A metric may have several probes, or none: then the case does not count in it.
    """

    entity: str
    fact: str
    probes: tuple[Probe, ...]

    @property
    def edit(self) -> Probe:
        """Give the request, which is asked back."""
        return self.of(EDIT)[0]

    def of(self, metric: str) -> list[Probe]:
        """List the probes of a metric."""
        return [probe for probe in self.probes if probe.metric == metric]


def key_of(line: dict) -> tuple[int, str, int]:
    """Tell what a line of `cases.jsonl` or `routes.jsonl` is about: case, metric, which probe."""
    return line["case"], line["probe"], line.get("nth", 0)
