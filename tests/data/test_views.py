"""Other views of pictures: of the same size, always the same one, never the picture itself."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from liveedit_jax.data.facts import entities
from liveedit_jax.data.images import drawing_png
from liveedit_jax.data.views import another_view, view_of


def drawn(mode, size=(90, 60)):
    """A dark square left of the middle on a light ground."""
    picture = Image.new("RGBA", size, (200, 220, 180, 255))
    ImageDraw.Draw(picture).rectangle((5, 20, 35, 50), fill=(40, 60, 20, 255))
    return picture.convert(mode)


def encoded(picture, form="PNG"):
    out = io.BytesIO()
    picture.save(out, format=form)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_a_view_is_another_picture_of_the_same_size(mode):
    picture = drawn(mode)
    view = view_of(picture, "a", 1)
    assert view.size == picture.size and view.tobytes() == view_of(picture, "a", 1).tobytes()
    assert view.tobytes() != view_of(picture, "a", 2).tobytes()
    before, after = (np.asarray(x.convert("L"), int) for x in (picture, view))
    assert (before != after).mean() > 0.1
    dark = [np.argwhere(x < 128)[:, 1].mean() for x in (before, after)]
    assert dark[0] < 45 < dark[1]  # mirrored


def test_the_crop_is_near_and_the_light_is_more():
    picture = Image.new("RGB", (300, 200), (200, 160, 180))
    ImageDraw.Draw(picture).rectangle((140, 90, 170, 120), fill=(40, 60, 20))
    for key in range(20):
        view = np.asarray(view_of(picture, key), float)
        light = view[:, 0] / np.asarray(picture, float)[:, -1]  # ground alone
        assert 1.09 < light.mean() < 1.26
        dark = view[..., 0] < 100
        side = np.sqrt(dark.sum() / (31 * 31))
        assert 1 / 0.93 < side < 1 / 0.79


def test_transparency_stays_where_the_picture_goes():
    picture = drawn("RGBA")
    picture.putalpha(picture.convert("L").point(lambda value: 255 * (value < 128)))
    view = np.asarray(view_of(picture, 0))
    seen = view[..., 3] == 255
    assert 0.05 < seen.mean() < 0.5 and view[seen][:, :3].mean() < 80


def test_a_palette_with_a_transparent_colour_is_kept_transparent():
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 250, 10, 10])
    picture.info["transparency"] = 1
    assert view_of(picture, 0).mode == "RGBA"
    assert np.asarray(view_of(picture, 0))[..., 3].max() == 0


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("shade", ["white", "black", "gray", "red"])
def test_a_picture_of_one_colour_changes_too(mode, shade):
    picture = Image.new("RGB", (7, 5), shade).convert(mode)
    assert view_of(picture, 0).tobytes() != picture.tobytes()


def test_encoded_bytes():
    entity = entities()[3]
    for data in (
        drawing_png(entity, "twemoji", 60),
        encoded(drawn("RGB"), "JPEG"),
        encoded(drawn("LA")),
    ):
        view = another_view(data, "x")
        assert view == another_view(data, "x") != data and view.startswith(b"\x89PNG")
        with Image.open(io.BytesIO(view)) as shown, Image.open(io.BytesIO(data)) as before:
            assert shown.size == before.size
    with pytest.raises(ValueError, match="not a readable image"):
        another_view(b"no picture", 0)


def test_an_upright_view_of_a_picture_that_lies_on_its_side():
    data, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    drawn("RGB").save(data, format="JPEG", exif=exif)
    assert Image.open(io.BytesIO(another_view(data.getvalue(), 0))).size == (60, 90)
