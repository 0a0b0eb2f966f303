"""Reading stamps: photographs of two folders alone, named by their texts, on white."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from liveedit_jax.data.stamps import Stamp, read_stamps, stamps_sha256


def stamp(file, colour="brown", text=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    cut_out = Image.new("RGBA", (40, 24))
    ImageDraw.Draw(cut_out).ellipse((4, 4, 30, 20), fill=colour)
    cut_out.save(file)
    if text is not None:
        file.with_suffix(".txt").write_text(text, "utf-8")


@pytest.fixture
def folder(tmp_path):
    stamp(tmp_path / "animals/birds/owl-1.png", text="An owl (asleep).\nde.utf8=Eine Eule.")
    stamp(tmp_path / "animals/fish/cod.png", "gray", text="George the cod!")
    stamp(tmp_path / "plants/flowers/my_rose.png", "red")
    stamp(tmp_path / "plants/trees/oak.png", "green", text="")
    for left_out in (
        "animals/birds/cartoon/tux.png",
        "animals/mammals/hedgehog.png",
        "vehicles/car.png",
        "animals.png",
    ):
        stamp(tmp_path / left_out)
    (tmp_path / "animals/birds/duck.svg").write_text("<svg/>")
    return tmp_path


def test_photographs_of_animals_and_plants_are_read(folder):
    found = [(stamp.path, stamp.name, stamp.thing) for stamp in read_stamps(folder)]
    assert found == [
        ("animals/birds/owl-1.png", "owl", "bird"),
        ("animals/fish/cod.png", "George the cod", "animal"),
        ("plants/flowers/my_rose.png", "my rose", "flower"),
        ("plants/trees/oak.png", "oak", "plant"),
    ]


def test_stamps_are_put_on_white(folder):
    picture = Image.open(io.BytesIO(read_stamps(folder)[2].picture))
    assert (picture.mode, picture.size) == ("RGB", (40, 24))
    pixels = np.asarray(picture)
    assert (pixels[0] == 255).all() and tuple(pixels[12, 15]) == (255, 0, 0)


def test_the_sha256_is_of_names_and_files(folder):
    before = stamps_sha256(read_stamps(folder))
    assert before == stamps_sha256(read_stamps(folder))
    stamp(folder / "vehicles/bus.png")
    assert before == stamps_sha256(read_stamps(folder))
    stamp(folder / "plants/flowers/my_rose.png", "blue")
    assert before != stamps_sha256(read_stamps(folder))


def test_a_quarter_of_the_names_is_held_out():
    stamps = [Stamp(f"animals/{i}.png", f"thing {i // 2}", "animal", b"") for i in range(400)]
    held = [stamp.held_out for stamp in stamps]
    assert 60 < sum(held) < 140 and held[::2] == held[1::2]


def test_a_folder_without_them_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="folders animals and plants"):
        read_stamps(tmp_path)
