"""Third drawings: one a picture, on white, out of a font that is looked for and checked."""

import os

import pytest
from PIL import Image, ImageDraw

from liveedit_jax.data import third_drawing
from liveedit_jax.data.facts import entities
from liveedit_jax.data.images import decode_image
from liveedit_jax.data.third_drawing import ThirdDrawings, find_font


class Drawn(ThirdDrawings):
    """Glyphs that need no font: a disc whose size is the entity's number, but for two alike."""

    def _glyph(self, entity):
        square = Image.new("RGB", (third_drawing.CANVAS,) * 2, "white")
        n = 10 + (entity.id if entity.id != 5 else 4) % 100
        ImageDraw.Draw(square).ellipse((0, 0, n, n), fill=(entity.id // 100 * 10, n, 0))
        return square


def test_a_drawing_that_stands_for_two_entities_is_none():
    third = Drawn(file="none.ttf")
    few = entities()
    assert third.png(few[4], 60) is None and third.png(few[5], 60) is None
    picture = decode_image(third.png(few[6], 60), 60)
    assert picture.shape == (60, 60, 3) and (picture[-1, -1] == 255).all()
    assert third.png(few[6], 60) != third.png(few[7], 60)


def test_the_font_is_the_named_one_or_that_of_the_environment(tmp_path, monkeypatch):
    font = tmp_path / "emoji.ttf"
    font.write_bytes(b"a font")
    monkeypatch.delenv(third_drawing.FONT_VARIABLE, raising=False)
    monkeypatch.setattr(third_drawing, "DEBIAN_FONT", tmp_path / "none.ttf")
    assert find_font() is None and find_font(font) == font
    monkeypatch.setenv(third_drawing.FONT_VARIABLE, str(font))
    assert find_font() == font
    monkeypatch.setenv(third_drawing.FONT_VARIABLE, str(tmp_path / "gone.ttf"))
    with pytest.raises(FileNotFoundError, match="no font file at"):
        find_font()


def test_noto_draws_every_entity_where_it_is_installed():
    font = find_font()
    if font is None:  # nothing to check on a machine without the font
        assert not os.environ.get(third_drawing.FONT_VARIABLE)
        return
    third = ThirdDrawings(font)
    drawn = [third.png(entity, 60) for entity in entities()]
    assert sum(png is None for png in drawn) < 10 and len(set(drawn)) > len(drawn) - 10
