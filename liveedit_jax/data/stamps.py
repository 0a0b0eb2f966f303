"""Photographs of animals and plants from Tux Paint's stamps, which the user installs.

Debian's `tuxpaint-stamps-default` puts them below /usr/share/tuxpaint/stamps. Only the folders
`animals` and `plants` are ever read, so that everything else there stays unseen for tests.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from liveedit_jax.data.facts import digest
from liveedit_jax.data.images import open_picture

FOLDERS = ("animals", "plants")
DRAWN_FOLDERS = ("cartoon", "toys", "plastic")  # drawings and figures: no photographs of animals
DRAWN = ("animals/mammals/echidna.png", "animals/mammals/hedgehog.png")  # nor are these photographs
THINGS = {"animals/birds": "bird", "plants/flowers": "flower", "animals": "animal"}  # else: plant
HELD_OUT_EVERY = 4  # one name in so many is never trained on
_ARTICLE = re.compile(r"^(an?|the|some|two)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Stamp:
    """One cut-out photograph: its path, what it shows, and the file's bytes."""

    path: str  # below the stamps' folder, with forward slashes
    name: str  # in English, from its text file
    thing: str  # bird, flower, animal or plant
    data: bytes

    @property
    def held_out(self) -> bool:
        """Return whether it is kept for evaluation; photographs of one name are kept together."""
        return digest("held out", self.name.casefold()) % HELD_OUT_EVERY == 0

    @property
    def picture(self) -> bytes:
        """Return the photograph on white, as PNG bytes."""
        cut_out = open_picture(self.data, self.path).convert("RGBA")
        white = Image.new("RGBA", cut_out.size, "white")
        white.alpha_composite(cut_out)
        out = io.BytesIO()
        white.convert("RGB").save(out, format="PNG")
        return out.getvalue()


def _read_name(file: Path) -> str:
    """Read a stamp's name: its text's first line, without article and remarks, or its file name."""
    text = file.with_suffix(".txt")
    line = text.read_text("utf-8").partition("\n")[0] if text.is_file() else ""
    said = _ARTICLE.sub("", re.split(r"[(.,!?]", line.strip())[0].strip())
    return said or file.stem.replace("_", " ")


def _is_photograph(path: Path) -> bool:
    return not set(path.parts) & set(DRAWN_FOLDERS) and path.as_posix() not in DRAWN


def read_stamps(folder: str | Path) -> tuple[Stamp, ...]:
    """Read the photographs of `animals` and `plants`, in the order of their paths.

    Raises:
        FileNotFoundError: no photograph below these folders.
    """
    folder = Path(folder)
    files = [file for name in FOLDERS for file in (folder / name).rglob("*.png")]
    paths = sorted(file.relative_to(folder) for file in files)
    found = []
    for path in paths:
        if _is_photograph(path):
            below = path.as_posix()
            thing = next((word for home, word in THINGS.items() if below.startswith(home)), "plant")
            file = folder / path
            found.append(Stamp(below, _read_name(file), thing, file.read_bytes()))
    if not found:
        raise FileNotFoundError(
            f"no photographs below {folder}: it needs the folders {' and '.join(FOLDERS)} of "
            "tuxpaint-stamps-default"
        )
    return tuple(found)


def stamps_sha256(stamps: Sequence[Stamp]) -> str:
    """Hash every path and file of the stamps, for a recipe."""
    sha256 = hashlib.sha256()
    for stamp in stamps:
        line = f"{stamp.path} {hashlib.sha256(stamp.data).hexdigest()}\n"
        sha256.update(line.encode())
    return sha256.hexdigest()
