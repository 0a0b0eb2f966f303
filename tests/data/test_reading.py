"""Pictures of any mode are read in order by any number of threads; large JPEGs decode smaller."""

import io
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.data.images import decode_image, open_picture, preprocess
from liveedit_jax.data.reading import read_pictures

CFG = BACKBONES["llava-1.5-7b"]


def drawn(size, seed=0) -> Image.Image:
    """Shapes and a slope, so that a turned or shifted picture is another picture."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 200, size[0])[None] + np.linspace(0, 50, size[1])[:, None]
    picture = Image.fromarray(slope.astype(np.uint8)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = (int(rng.integers(0, n)) for n in size)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        draw.ellipse((x, y, x + size[0] // 4, y + size[1] // 4), fill=colour)
    return picture


def encoded(picture: Image.Image, form="jpeg", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def turned(picture: Image.Image) -> bytes:
    """Stored on its side, with the EXIF mark that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture.rotate(90, expand=True), quality=95, exif=exif)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    base = [drawn((60 + i, 40), i) for i in range(6)]
    data = {
        "rgb.jpg": encoded(base[0]),
        "grey.jpg": encoded(base[1].convert("L")),
        "alpha.png": encoded(base[2].convert("RGBA"), "png"),
        "palette.png": encoded(base[3].quantize(16), "png"),
        "cmyk.jpg": encoded(base[4].convert("CMYK")),
        "turned.jpg": turned(base[5]),
        "large.jpg": encoded(drawn((1600, 1400))),
    }
    for name, content in data.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in data]


@pytest.mark.parametrize("workers_n", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_pictures_in_order(files, workers_n):
    stored = [*files, *(file.read_bytes() for file in files)] * 3
    found = [picture.pixels for picture in read_pictures(CFG, stored, workers_n)]
    assert len(found) == len(stored)
    for i, file in enumerate(files * 6):
        want = preprocess(CFG, file.read_bytes()).pixels
        assert want.shape == (336, 336, 3)
        np.testing.assert_array_equal(found[i], want)


def test_few_are_read_ahead_and_an_endless_list_is_fine(files):
    taken = itertools.count()
    endless = (files[next(taken) % len(files)] for _ in itertools.repeat(None))
    reader = read_pictures(CFG, endless, 2)
    for _ in range(5):
        next(reader)
    assert next(taken) <= 5 + 2 * 4 + 1
    reader.close()
    assert list(read_pictures(CFG, [], 2)) == []
    with pytest.raises(ValueError, match="workers_n=0"):
        read_pictures(CFG, files, 0)


def test_no_thread_is_left_when_reading_stops(files):
    reader = read_pictures(CFG, files * 4, 2)
    next(reader)
    reader.close()
    for thread in threading.enumerate():
        if thread.name.startswith("pictures"):
            thread.join(timeout=30)
            assert not thread.is_alive()


@pytest.mark.parametrize("data", [b"", b"a text", b"\xff\xd8\xff\xe0 no picture"])
def test_a_file_that_is_no_picture_is_named_when_its_turn_comes(files, tmp_path, data):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(data)
    reader = read_pictures(CFG, [*files[:3], broken, *files], 2)
    assert len([next(reader) for _ in range(3)]) == 3
    with pytest.raises(ValueError, match=r"broken\.jpg is not a readable image"):
        next(reader)
    with pytest.raises(ValueError, match="picture 1 is not a readable image"):
        list(read_pictures(CFG, [files[0], data]))


def test_a_missing_or_truncated_file_is_named(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.png"):
        list(read_pictures(CFG, [tmp_path / "none.png"]))
    half = tmp_path / "half.jpg"
    half.write_bytes(files[-1].read_bytes()[:9000])
    with pytest.raises(ValueError, match="half.jpg is not a readable image"):
        list(read_pictures(CFG, [half]))


def test_a_large_jpeg_decodes_to_at_least_twice_the_size_needed():
    sizes = {(1600, 1400): (800, 700), (1343, 2000): (1343, 2000), (6000, 2688): (1500, 672)}
    sizes |= {(1345, 1345): (673, 673), (400, 300): (400, 300)}
    for size, want in sizes.items():
        data = encoded(Image.new("L", size))
        assert open_picture(data, short=336).size == want
        assert open_picture(data).size == size
    odd = encoded(Image.new("L", (1345, 1345)))
    assert open_picture(odd, short=336, exact=True).size == (1345, 1345)
    png = encoded(Image.new("L", (1600, 1400)), "png")
    assert open_picture(png, short=336).size == (1600, 1400)


@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-next-7b", "blip2-opt-2.7b", "tiny"])
def test_a_large_jpeg_looks_the_same_as_its_whole(name):
    cfg = BACKBONES[name]
    picture = drawn((3000, 2703 if name != "llava-next-7b" else 2704))
    data = encoded(picture, quality=95)
    whole = encoded(open_picture(data), "png", compress_level=1)
    small, full = preprocess(cfg, data), preprocess(cfg, whole)
    assert not np.array_equal(small.pixels, full.pixels)  # it did decode smaller
    assert np.abs(small.pixels - full.pixels).mean() < 0.02
    for ours, whole in zip(small.layout, full.layout, strict=True):
        np.testing.assert_array_equal(ours.place, whole.place)


def test_small_pictures_decode_exactly_as_before():
    data = encoded(drawn((671, 500)))
    want = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(np.asarray(open_picture(data, short=336)), want)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_turned_jpeg_of_any_mode_is_upright(mode):
    upright = drawn((1400, 1600)).convert(mode)
    data = turned(upright)
    assert open_picture(data, short=336).size == (700, 800)
    plain = decode_image(encoded(upright, quality=95), 60).astype(int)
    assert np.abs(decode_image(data, 60).astype(int) - plain).mean() < 1
