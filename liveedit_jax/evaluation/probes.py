"""What is asked after the edits: the probes of one case, in a form that no benchmark owns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EDIT = "reliability"  # the edit itself, asked back
EDITED = (EDIT, "text_generality", "image_generality")  # the answer should be the target
KEPT = ("text_locality", "image_locality")  # the answer should be what it was
HARD = ("same_image", "look_alike")  # likewise, and close to an edit
METRICS = EDITED + KEPT
# Questions about the edited picture whose answers take so many facts beside the edit (VLKEB).
PORTABILITY = tuple(f"portability_{hops}" for hops in (1, 2, 3, 4))
TARGETED = EDITED + PORTABILITY  # the answer should be the probe's target
ALWAYS = METRICS + HARD  # what every run has figures of, if only None
PROBES = ALWAYS + PORTABILITY


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
    probes: dict[str, Probe]  # keys out of PROBES; a missing key is not counted
