"""Pictures as users hand them in: read rightly or refused in one line, in little memory."""

import io
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.data import decoding
from liveedit_jax.data.decoding import encode_picture, open_picture, read_bytes
from liveedit_jax.data.images import decode_image, preprocess
from liveedit_jax.data.missing import select_readable
from liveedit_jax.data.records import Record
from liveedit_jax.session.images import ImageFile, check_image, read_image

TINY = BACKBONES["tiny"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow's


def noise(width=60, height=40, seed=0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def encoded(picture, form="PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


ON_ITS_SIDE = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)


def exif(*entries: bytes, orientation: bytes = ON_ITS_SIDE) -> bytes:
    """EXIF of a picture on its side (6), with further entries of 12 bytes and a text."""
    at = 8 + 2 + 12 * (len(entries) + 1) + 4
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries) + 1)
    body = b"".join(entry.replace(b"HERE", struct.pack("<I", at)) for entry in entries)
    return head + orientation + body + struct.pack("<I", 0) + struct.pack("<ii", -1, 0)


DAMAGED = {
    "a rational over nought": exif(struct.pack("<HHI", 0x011A, 10, 1) + b"HERE"),
    "numbers for a text": exif(struct.pack("<HHI", 0x0131, 5, 1) + b"HERE"),
    "a value beyond the end": exif(struct.pack("<HHII", 0x010E, 2, 9_000, 70_000)),
    "an unknown type": exif(struct.pack("<HHII", 0x9003, 99, 1, 8)),
    "a sub-directory that is itself": exif(struct.pack("<HHII", 0x8769, 4, 1, 8)),
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_with_damaged_metadata_is_read_upright(what, form):
    data = encoded(noise(), form, exif=DAMAGED[what])
    assert open_picture(data).size == (40, 60)
    assert decode_image(data, 60).shape == (60, 60, 3)


@pytest.mark.parametrize(
    "orientation",
    [
        struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0"),
        struct.pack("<HHIHH", 0x0112, 3, 1, 77, 0),
        struct.pack("<HHIHH", 0x0112, 3, 2, 6, 6),
    ],
)
def test_an_orientation_that_is_none_leaves_the_picture_as_it_is(orientation):
    data = encoded(noise(), "JPEG", exif=exif(orientation=orientation))
    assert open_picture(data).size in ((60, 40), (40, 60))
    assert open_picture(encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0")).size == (60, 40)


SHAPES = """
import io, resource
from PIL import Image
from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.data.images import preprocess
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for size in ((65_000, 1), (3, 20_000)):
    out = io.BytesIO()
    Image.new("L", size, 128).save(out, "PNG")
    for name in ("tiny", "llava-1.5-7b", "llava-next-7b"):
        made = preprocess(BACKBONES[name], out.getvalue()).pixels
        assert made.shape == BACKBONES[name].image_shape, (size, name)
"""


def test_long_thin_pictures_take_little_memory():
    done = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def png(width: int, height: int) -> bytes:
    """A PNG that only claims its size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + whole


def tiles(width: int, height: int) -> bytes:
    """A small TIFF that claims tiles of a size."""
    tags = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, width), (323, 4, height), (324, 4, 200), (325, 4, 40)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + zlib.compress(bytes(1000)).ljust(40, b"\0")


BMP = encoded(noise(), "BMP")
BOMBS = {
    "many pixels": (png(9_000, 9_000), "9,000 x 9,000 pixels"),
    "an endless edge": (png(170_000_000, 1), "170,000,000 x 1 pixels, an edge may have 65,536"),
    "beyond Pillow's own limit": (png(2**31 - 1, 2**31 - 1), "too large"),
    "GIF": (b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3) + b";", "readable|too large"),
    "BMP": (BMP[:18] + struct.pack("<ii", 40_000, 9_000) + BMP[26:], "too large"),
    "PPM": (b"P6 30000 30000 255\n" + bytes(99), "too large"),
    "tiles": (tiles(60_000, 60_000), "tiles of 60000 x 60000"),
    "no pixels": (png(0, 5), "readable"),
}


@pytest.mark.parametrize("what", BOMBS)
def test_pixels_are_counted_before_they_are_decoded(what, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    data, says = BOMBS[what]
    with pytest.raises(ValueError, match=f"^bomb.png is .*({says})") as caught:
        preprocess(TINY, data, "bomb.png")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "FILE_MOST", 2**20)
    with (tmp_path / "long.png").open("wb") as out:
        out.truncate(2**32)
    with pytest.raises(ValueError, match="long.png is too large: more than 1 MiB"):
        read_bytes(tmp_path / "long.png")


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), AssertionError(), RuntimeError("a\nb"), RecursionError(), AttributeError("y"),
     ZeroDivisionError(), EOFError(), StopIteration(), struct.error("z"), MemoryError()],
)  # fmt: skip
def test_whatever_a_decoder_raises_is_one_line(error, monkeypatch):
    def load(self):
        raise error

    data = encoded(noise())
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(
        ValueError, match="^my.png (is not a readable image|needs more memory)"
    ) as e:
        open_picture(data, "my.png")
    assert "\n" not in str(e.value)


def test_formats_that_start_programs_or_hold_no_pixels_are_unknown():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    for data in (eps, b"\x89HDF\r\n\x1a\n" + bytes(99), b"BUFR" + bytes(99), b"text", b""):
        with pytest.raises(ValueError, match="not a readable image .*use a PNG or JPEG"):
            open_picture(data)


SLOPE = np.linspace(0, 1, 256)[None].repeat(4, 0)  # from black to white


@pytest.mark.parametrize(
    "kind, white",
    [("float32", 1), ("float32", 255), ("float32", 65_535), ("int32", 255), ("int32", 65_535),
     ("int32", 2**31 - 1), ("uint16", 65_535), ("uint32", 2**32 - 1)],
)  # fmt: skip
def test_floats_and_wide_numbers_are_shown_as_the_grey_they_mean(kind, white):
    values = (SLOPE * white).astype(kind)
    data = encoded(Image.fromarray(values.view("int32") if kind == "uint32" else values), "TIFF")
    if kind == "uint32":
        data = data.replace(
            struct.pack("<HHIHH", 339, 3, 1, 2, 0), struct.pack("<HHIHH", 339, 3, 1, 1, 0)
        )
    shown = np.asarray(open_picture(data))[..., 0].astype(int)
    assert np.abs(shown - SLOPE * 255).max() <= 1


@pytest.mark.parametrize(
    "values, says",
    [
        (SLOPE * 7, "from 0 to 7, which is no known scale"),
        (SLOPE - 0.5, "from -0.5 to 0.5"),
        (SLOPE * 1e9, "no known scale"),
        (np.where(SLOPE > 0.5, np.nan, SLOPE), "from nan to nan"),
        (np.where(SLOPE > 0.5, np.inf, SLOPE), "to inf"),
        ((SLOPE * 4095).astype(np.int32), "from 0 to 4095"),
        ((SLOPE * 99).astype(np.int32) - 50, "from -50 to 49"),
    ],
)
def test_grey_on_no_known_scale_is_refused_and_not_shown_black_or_white(values, says):
    values = values if values.dtype == np.int32 else values.astype(np.float32)
    with pytest.raises(ValueError, match=f"^depth.tif has grey values {says}|{says}"):
        open_picture(encoded(Image.fromarray(values), "TIFF"), "depth.tif")


def test_pictures_in_memory_are_pictures():
    picture = noise()
    for given in (picture, np.asarray(picture), np.asarray(picture)[:, :, :]):
        check_image(given)
        file = read_image(given)
        assert (np.asarray(open_picture(file.data)) == np.asarray(picture)).all()
        assert file == read_image(picture) and file.name is None
    noted = picture.copy()
    noted.info = {"transparency": (1, 2, 3), "dpi": (9, 9), "comment": "x"}
    assert len({read_image(each).data for each in (picture, noted.convert("RGB"))}) <= 2
    turned = Image.open(io.BytesIO(encoded(picture, "JPEG", exif=exif(), quality=95)))
    assert open_picture(read_image(turned).data).size == (40, 60)
    for odd in (
        picture.convert("CMYK"),
        picture.convert("P"),
        picture.convert("1"),
        picture.convert("LA"),
    ):
        assert open_picture(read_image(odd).data).size == (60, 40)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (np.asarray(open_picture(encode_picture(grey)))[..., 1] == grey).all()
    assert open_picture(encode_picture(np.zeros((4, 5, 4), np.uint8))).mode == "RGBA"
    assert isinstance(read_image(b"anything"), ImageFile)  # the model refuses it when it is decoded


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 5), np.uint8), np.zeros(4, np.uint8),
     np.zeros((0, 4, 3), np.uint8), np.zeros((70_000, 1), np.uint8)],
)  # fmt: skip
def test_arrays_that_are_no_pictures_are_refused(array):
    with pytest.raises(ValueError, match="^the picture is "):
        read_image(array)


def test_other_things_are_no_pictures():
    for thing in (None, 3, ["a.png"], io.BytesIO(b"")):
        with pytest.raises(TypeError, match="a picture is an image file's name"):
            check_image(thing)
    closed = Image.open(io.BytesIO(encoded(noise())))
    closed.fp.close()
    with pytest.raises(ValueError, match="the picture is not a readable image"):
        read_image(closed)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Change, drop, double or cut bytes, most of them in the header."""
    made = bytearray(data)
    for _ in range(rng.integers(1, 8)):
        at = int(rng.integers(0, min(len(made), 64 if rng.random() < 0.6 else len(made))))
        match rng.integers(0, 5):
            case 0 | 1:
                made[at] = rng.integers(0, 256)
            case 2:
                made[at : at + 4] = bytes(rng.choice([0, 127, 128, 255], 4).tolist())
            case 3:
                del made[at : at + int(rng.integers(1, 9))]
            case 4:
                made[at:at] = made[at : at + int(rng.integers(1, 20))]
        made = made or bytearray(b"\0")
    return bytes(made[: rng.integers(1, len(made) + 1)] if rng.random() < 0.2 else made)


def test_mutated_pictures_are_read_or_refused_in_one_line():
    rng, read_n = np.random.default_rng(26), 0
    small = noise(24, 16)
    forms = {form: {} for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "JPEG2000")}
    seeds = [encoded(small, form, **options) for form, options in forms.items()]
    seeds += [encoded(small, "TIFF", compression=c) for c in (None, "tiff_lzw", "jpeg")]
    seeds += [encoded(small, "JPEG", exif=exif(*DAMAGED.values())[:300])]
    for i in range(220):
        data = mutated(seeds[i % len(seeds)], rng)
        try:
            shown = preprocess(TINY, data, "m.png").pixels
            assert shown.shape == TINY.image_shape and np.isfinite(shown).all()
            read_n += 1
        except ValueError as error:
            assert str(error).startswith("m.png ") and "\n" not in str(error)
    assert 20 < read_n < 200


def test_a_damaged_tiff_writes_nothing_of_its_own(capfd):
    whole = encoded(noise(), "TIFF", compression="tiff_lzw")
    for cut in (whole[:8] + bytes(300) + whole[308:], whole[:-1]):
        with pytest.raises(ValueError, match="not a readable image"):
            open_picture(cut)
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


@pytest.fixture
def records(tmp_path) -> list[Record]:
    made = []
    for i in range(4):
        noise(seed=i).save(tmp_path / f"{i}.png")
        texts = dict.fromkeys(("rephrase", "pred", "loc", "loc_ans", "m_loc_q", "m_loc_a"), "a")
        files = dict.fromkeys(("image", "image_rephrase", "m_loc"), tmp_path / f"{i}.png")
        made.append(
            Record(src=f"q{i}", alt="b", entity="e", fact="", split="eval", row=i, **texts, **files)
        )
    return made


def test_every_picture_of_an_evaluation_is_decoded_before_it_begins(records, tmp_path):
    assert select_readable(records, TINY) == tuple(records)
    cut = tmp_path / "2.png"
    cut.write_bytes(cut.read_bytes()[:900])
    (tmp_path / "3.png").unlink()
    with pytest.raises(
        ValueError, match="the pictures of 2 rows cannot be used.*--allow"
    ) as caught:
        select_readable(records, TINY)
    text = str(caught.value)
    assert f"row 2: {cut} is not a readable image" in text and "(m_loc)" in text
    assert "row 3: no image file at" in text
    with pytest.warns(UserWarning, match="they are left out") as warned:
        assert select_readable(records, TINY, allow_missing=True) == tuple(records[:2])
    assert f"row 2: {cut}" in str(warned[0].message)
    with pytest.raises(ValueError, match="no row has all its pictures"):
        select_readable(records[2:], TINY, allow_missing=True)
    drawn = replace(records[0], look_alike=b"no picture", row=None)
    with pytest.raises(ValueError, match=r"row 0: image is not a readable .*\(look_alike\)"):
        select_readable([drawn], TINY)


def test_a_picture_that_goes_while_an_evaluation_runs_does_not_spoil_its_page(tmp_path):
    from liveedit_jax.report.run_page import _shown

    assert "edited (damaged or missing)" in _shown(Path(tmp_path / "gone.png"), "edited")
