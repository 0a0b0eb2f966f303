"""What is asked after the edits: the probes of one case, in a form that no benchmark owns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EDIT = "reliability"  # the edit itself, asked back
EDITED = (EDIT, "text_generality", "image_generality")  # the answer should be the target
KEPT = ("text_locality", "image_locality")  # the answer should be what it was
HARD = ("same_image", "look_alike")  # likewise, and close to an edit
METRICS = EDITED + KEPT
PROBES = METRICS + HARD


@dataclass(frozen=True, eq=False)
class Probe:
    """One question: its text, the text that is compared with, and its picture."""

    prompt: str
    target: str
    image: np.ndarray | None  # uint8[S, S, 3]; None: no picture


@dataclass(frozen=True, eq=False)
class Case:
    """One edit of the stream and what is asked about it; `reliability` is the edit itself."""

    entity: str
    fact: str
    probes: dict[str, Probe]  # keys out of PROBES; a missing key is not counted
