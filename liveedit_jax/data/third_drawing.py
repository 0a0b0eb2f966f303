"""Third drawings: every entity in Noto Color Emoji, from a font file that the user has.

No model here was trained on this font, so it tests whether an edit is also found on an unknown
artist's drawing of the edited entity.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from liveedit_jax.data.facts import Entity, entities

DEBIAN_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # fonts-noto-color-emoji
FONT_VARIABLE = "LIVEEDIT_NOTO"  # environment variable that names the font file
GLYPH_SIZE = 109  # the only size of the font's bitmaps
CANVAS = 136  # pixels a side; no glyph is larger


def find_font(named: str | Path | None = None) -> Path | None:
    """Return the font file: the named one, `$LIVEEDIT_NOTO`'s, Debian's, or None without any.

    Raises:
        FileNotFoundError: the named file, or the variable's, does not exist.
    """
    named = named or os.environ.get(FONT_VARIABLE)
    if named is None:
        return DEBIAN_FONT if DEBIAN_FONT.is_file() else None
    if not Path(named).is_file():
        raise FileNotFoundError(f"no font file at {named}")
    return Path(named)


def font_sha256(named: str | Path | None = None) -> str | None:
    """Return the sha256 of the file that `find_font` finds, or None without one.

    Raises:
        FileNotFoundError: as for `find_font`.
    """
    file = find_font(named)
    return None if file is None else hashlib.sha256(_read_font(file)).hexdigest()


@lru_cache(maxsize=1)
def _read_font(file: Path) -> bytes:
    """Read a font file once for its sha256 and its glyphs, so that both are of the same bytes."""
    return file.read_bytes()


@dataclass(frozen=True)
class ThirdDrawings:
    """Drawings from a font with colour bitmaps.

    Raises:
        ValueError: the file is not such a font, or Pillow lacks RAQM, which joins emoji sequences.
    """

    file: Path

    @cached_property
    def _font(self) -> ImageFont.FreeTypeFont:
        if not features.check("raqm"):
            raise ValueError("Pillow has no RAQM here, so it cannot draw emoji sequences")
        try:
            data = io.BytesIO(_read_font(self.file))
            return ImageFont.truetype(data, GLYPH_SIZE, layout_engine=ImageFont.Layout.RAQM)
        except OSError as error:
            raise ValueError(f"{self.file} is no font with colour bitmaps ({error})") from error

    def _glyph(self, entity: Entity) -> Image.Image:
        """Draw one entity's glyph at the centre of a white square."""
        glyph = Image.new("RGBA", (2 * CANVAS, 2 * CANVAS))
        ImageDraw.Draw(glyph).text((0, 0), entity.emoji, font=self._font, embedded_color=True)
        box = glyph.getbbox()
        if box is None:
            raise ValueError(f"{self.file} does not draw {entity.emoji}: is it Noto Color Emoji?")
        glyph = glyph.crop(box)
        side = max(CANVAS, *glyph.size)
        square = Image.new("RGBA", (side, side), "white")
        square.alpha_composite(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
        return square.convert("RGB")

    @cached_property
    def _unique_ids(self) -> frozenset[int]:
        """Return the ids of entities whose glyph is no other entity's."""
        drawn: dict[bytes, list[int]] = {}
        for entity in entities():
            drawn.setdefault(self._glyph(entity).tobytes(), []).append(entity.id)
        return frozenset(ids[0] for ids in drawn.values() if len(ids) == 1)

    def png(self, entity: Entity, size: int) -> bytes | None:
        """Draw an entity as a PNG of `size` pixels a side; None if two entities share the glyph.

        Raises:
            ValueError: as for the class.
        """
        if entity.id not in self._unique_ids:
            return None
        out = io.BytesIO()
        self._glyph(entity).resize((size, size), Image.Resampling.BICUBIC).save(out, format="PNG")
        return out.getvalue()
