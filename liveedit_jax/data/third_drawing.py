"""A third artist's drawing of every entity: Noto Color Emoji, from a font file the user has.

No model here was ever trained on it, so that it tests whether an edit is found again on a picture
that only shows the same thing.
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

DEBIAN_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # of fonts-noto-color-emoji
FONT_VARIABLE = "LIVEEDIT_NOTO"  # environment variable that names the font file
GLYPH_SIZE = 109  # the only size that its bitmaps have
CANVAS = 136  # pixels a side: no glyph is larger


def find_font(named: str | Path | None = None) -> Path | None:
    """The font file: the one named, that of `$LIVEEDIT_NOTO`, Debian's, or None without any.

    Raises:
        FileNotFoundError: there is none where one was named.
    """
    named = named or os.environ.get(FONT_VARIABLE)
    if named is None:
        return DEBIAN_FONT if DEBIAN_FONT.is_file() else None
    if not Path(named).is_file():
        raise FileNotFoundError(f"no font file at {named}")
    return Path(named)


def font_sha256(named: str | Path | None = None) -> str | None:
    """The sha256 of the file that `font_file` finds.

    Raises:
        FileNotFoundError: there is none where one was named.
    """
    file = find_font(named)
    return None if file is None else hashlib.sha256(_read_font(file)).hexdigest()


@lru_cache(maxsize=1)
def _read_font(file: Path) -> bytes:
    """Read a font file once for its sha256 and its glyphs, so that both are of the same bytes."""
    return file.read_bytes()


@dataclass(frozen=True)
class ThirdDrawings:
    """Drawings out of a font with colour bitmaps.

    Raises:
        ValueError: the file is no such font, or Pillow has no RAQM, which joins emoji sequences.
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
        """One entity in the middle of a white square."""
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
        """Ids of the entities whose drawing is nobody else's."""
        drawn: dict[bytes, list[int]] = {}
        for entity in entities():
            drawn.setdefault(self._glyph(entity).tobytes(), []).append(entity.id)
        return frozenset(ids[0] for ids in drawn.values() if len(ids) == 1)

    def png(self, entity: Entity, size: int) -> bytes | None:
        """One drawing, `size` pixels a side, as PNG bytes; None where it stands for two entities.

        Raises:
            ValueError: as the class says.
        """
        if entity.id not in self._unique_ids:
            return None
        out = io.BytesIO()
        self._glyph(entity).resize((size, size), Image.Resampling.BICUBIC).save(out, format="PNG")
        return out.getvalue()
