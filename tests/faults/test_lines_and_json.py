"""JSON that others wrote: a bad line or file is told in one line, and stops nothing else."""

import io
import json
import os
import tracemalloc
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from liveedit_jax.cli import requests
from liveedit_jax.data.annotations import read_annotations
from liveedit_jax.data.json_files import LINE_MOST, parse_json, read_json, read_lines
from liveedit_jax.data.missing import select_complete
from liveedit_jax.data.tokenise import check_text
from liveedit_jax.session.images import read_image

GOOD = {"image": "good.png", "prompt": "a", "target": "b"}


def line(**fields) -> str:
    return json.dumps(GOOD | fields)


BAD = {
    "deep": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "deep objects": ('{"a":' * 5_000 + "1" + "}" * 5_000, "nested too deeply"),
    "a huge number": ('{"image": %s}' % ("9" * 5000), "a number is too long"),
    "NaN": ('{"image": NaN, "prompt": "a", "target": "b"}', "NaN is no number"),
    "-Infinity": ("-Infinity", "-Infinity is no number"),
    "nulls": (line(image=None, prompt=None), "is not a string"),
    "numbers": (line(image=1), "image is not a string"),
    "None": ("None", "not valid JSON"),
    "a NUL in a name": (line(image="a\0b.png"), "no image file"),
    "a long name": (line(image="x" * 5_000), "too long"),
    "half a surrogate": ('{"image": "\\ud800", "prompt": "a", "target": "b"}', "not valid UTF-8"),
    "half of one asked": ('{"image": "good.png", "prompt": "\\udfff", "target": "b"}', "prompt"),
    "a loop of links": (line(image="loop"), "no image file"),
    "a pipe": (line(image="fifo"), "no image file"),
    "a folder": (line(image="."), "no image file"),
    "an endless device": (line(image="/dev/zero"), "no image file"),
    "no UTF-8": (b"\xff\xfe{}", "byte 0 is not UTF-8"),
    "UTF-16": (line().encode("utf-16"), "not UTF-8"),
    "a key twice": (line()[:-1] + ', "target": "c"}', "'target' is there twice"),
    "an unknown key": (line(colour="red"), "unknown field colour"),
    "a list": ("[1]", "not an object"),
    "a long line": (line(prompt="x" * LINE_MOST), "longer than 1 MiB"),
    "cut short": (line()[:-5], "not valid JSON"),
    "a cut AVIF": (line(image="cut.avif"), None),  # its header may be whole
    "a text": (line(image="e.jsonl"), "not a readable image"),
    "a bomb": (line(image="bomb.png"), "too large"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("lines")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    picture.save(made / "good.png")
    out = io.BytesIO()
    picture.save(out, "AVIF")
    (made / "cut.avif").write_bytes(out.getvalue()[: len(out.getvalue()) // 2])
    Image.new("1", (100_000, 8)).save(made / "bomb.png")
    (made / "loop").symlink_to("loop")
    os.mkfifo(made / "fifo")
    return made


@pytest.mark.parametrize("what", BAD)
def test_one_bad_line_does_not_stop_the_file(folder, what):
    text, says = BAD[what]
    text = text if isinstance(text, bytes) else text.encode()
    good = line().encode()
    (folder / "e.jsonl").write_bytes(good + b"\n" + text.replace(b"\n", b"") + b"\n\n" + good)
    found = requests.read_lines(folder / "e.jsonl")
    assert [each.line for each in found] == [1, 2, 4]
    assert [type(each) for each in found[::2]] == [requests.RequestLine] * 2
    if says is not None:
        assert isinstance(found[1], requests.BadLine) and says in found[1].reason
        assert "\n" not in found[1].reason and len(found[1].reason) < 1_500


def test_a_byte_order_mark_is_no_fault(folder):
    (folder / "e.jsonl").write_bytes(b"\xef\xbb\xbf" + line().encode() + b"\r\n")
    assert requests.read_lines(folder / "e.jsonl")[0].target == "b"


def test_lines_without_an_end_are_passed_over(tmp_path):
    (tmp_path / "long").write_bytes(b"x" * (3 * LINE_MOST) + b"\n1\n\n" + b"y" * (LINE_MOST + 1))
    assert list(read_lines(tmp_path / "long")) == [(1, None), (2, b"1\n"), (4, None)]
    (tmp_path / "edge").write_bytes(b"x" * LINE_MOST + b"\n2")
    assert [number for number, _ in read_lines(tmp_path / "edge")] == [1, 2]


class Editor:
    """Stores what it is given, as `EditingSession` does, and keeps no picture."""

    def __init__(self):
        self.model = SimpleNamespace(check=lambda prompt, target: None)
        self.stored = []

    def find(self, image, prompt, target):
        read_image(image)

    def read(self, image, prompt, target):
        if len(read_image(image).data) < 1_000:
            raise ValueError(f"{image} is not a readable image")
        return prompt, target, read_image(image)

    def add(self, requests):
        self.stored += [(prompt, target) for prompt, target, _ in requests]
        ids = range(len(self.stored) - len(requests), len(self.stored))
        return SimpleNamespace(ids=tuple(ids))


def test_a_file_of_edits_does_not_hold_all_its_pictures_in_memory(tmp_path):
    pictures_n, rng = 60, np.random.default_rng(0)
    lines = []
    for i in range(pictures_n):
        pixels = rng.integers(0, 255, (300, 300, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.bmp")  # 270 kB
        lines.append(json.dumps({"image": f"{i}.bmp", "prompt": f"q{i}", "target": "t"}))
    (tmp_path / "gone.bmp").write_bytes((tmp_path / "0.bmp").read_bytes())
    lines.insert(5, json.dumps({"image": "gone.bmp", "prompt": "q", "target": "t"}))
    lines.insert(9, json.dumps({"image": "short.bmp", "prompt": "q", "target": "t"}))
    (tmp_path / "short.bmp").write_bytes((tmp_path / "0.bmp").read_bytes()[:500])
    (tmp_path / "e.jsonl").write_text("\n".join(lines))
    editor, said = Editor(), []
    tracemalloc.start()
    try:
        found = requests.read_lines(tmp_path / "e.jsonl")
        assert tracemalloc.get_traced_memory()[1] < 5 * 270_000
        (tmp_path / "gone.bmp").unlink()
        with pytest.raises(
            ValueError, match="line 6: no image file at .* 1 more bad lines: 10"
        ) as e:
            for result in requests.store(editor, found, "e.jsonl", check=False):
                said.append(result.id)
        assert tracemalloc.get_traced_memory()[1] < 25 * 270_000  # a batch of them, not all
    finally:
        tracemalloc.stop()
    assert "the other 60 lines are stored" in str(e.value)
    assert said == list(range(60)) and len(editor.stored) == 60


@pytest.mark.parametrize("text", [None, 3, b"a", ["a"], "", " \n", "\ud800", "a\udfff"])
def test_a_text_is_a_text(text):
    with pytest.raises(ValueError, match="^the prompt is (not a string|empty|not valid UTF-8)$"):
        check_text("prompt", text)


def test_json_of_others_is_read_or_refused_in_one_line(tmp_path):
    assert parse_json('\ufeff{"a": [1, 2.5, "ü", null]}'.encode(), "x") == {
        "a": [1, 2.5, "ü", None]
    }
    (tmp_path / "x.json").write_bytes(b"{" * 10)
    with pytest.raises(ValueError, match="x.json is not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(ValueError, match="x.json is too large: more than 0 MiB"):
        read_json(tmp_path / "x.json", most=9)
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_json(tmp_path)
    whole, rng = (
        line(prompt="größer\\n😀", extra=[1.5e3, {"a": None}] * 3).encode(),
        np.random.default_rng(26),
    )
    for _ in range(2_000):
        made = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(0, len(made)))
            match rng.integers(0, 4):
                case 0:
                    made[at] = rng.integers(0, 256)
                case 1:
                    made[at] = rng.choice(bytearray(b'{}[]",:\\u0eE-+tfn'))
                case 2:
                    del made[at : at + 3]
                case 3:
                    made[at:at] = made[at : at + 9] * int(rng.integers(1, 4))
            made = made or bytearray(b" ")
        try:
            parse_json(bytes(made), "it")
        except ValueError as error:
            assert str(error).startswith("it is not valid JSON (") and "\n" not in str(error)


TEXTS = ("src", "rephrase", "alt", "loc", "loc_ans", "m_loc_q", "m_loc_a", "pred")
ROW = {name: f"text {name}" for name in TEXTS}
ROW |= dict.fromkeys(("image", "image_rephrase", "m_loc"), "a.png")
PATHS = ["../a.png", "a/../../x", "/etc/passwd", "..\\a.png", "C:\\x.png", "a\0.png", "x" * 5_000]
PATHS += [".", " ", "", None, 3, ["a.png"], "~/x.png", "http://x/y.png", "\ud800.png", "fifo"]
ANNOTATIONS = {
    "row null": [None], "rows in an object": {"a": ROW}, "no rows": [], "empty": b"",
    "nested": b"[" * 10**6 + b"]" * 10**6, "a huge number": b"[" + b"9" * 10**5 + b"]",
    "utf-16": json.dumps([ROW]).encode("utf-16"), "cut short": json.dumps([ROW] * 3).encode()[:-40],
    "a key twice": json.dumps([ROW])[:-2].encode() + b', "alt": "another"}]', "twice": [ROW, ROW],
    "NaN": b'[{"src": NaN}]', "not a number": [ROW | {"src": float("nan")}],
    "half a surrogate": [ROW | {"src": "\ud800"}], "no text": [ROW | {"src": None}],
    **{f"image {path!r:.20}": [ROW | {"image": path}] for path in PATHS},
}  # fmt: skip


@pytest.mark.parametrize("what", ANNOTATIONS)
def test_odd_annotations_are_refused_by_row_and_field(folder, what):
    data = ANNOTATIONS[what]
    file = folder / "vqa" / "vqa_eval.json"
    (folder / "images").mkdir(exist_ok=True)
    file.parent.mkdir(exist_ok=True)
    (folder / "images" / "a.png").write_bytes((folder / "good.png").read_bytes())
    file.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    with warnings.catch_warnings(), pytest.raises((ValueError, OSError)) as caught:
        warnings.simplefilter("ignore")
        found = read_annotations("evqa", "eval", folder)
        select_complete(found.records, folder / "images", allow_missing=False)
    said = str(caught.value)
    assert "vqa_eval.json" in said or "row 0" in said or "too long" in said


def test_annotations_with_a_byte_order_mark_and_odd_characters_are_read(folder):
    (folder / "vqa").mkdir(exist_ok=True)
    rows = [ROW, ROW | {"src": "a\0b\x1b[31m"}, ROW | {"src": "x" * 2**20}]
    file = folder / "vqa" / "vqa_eval.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    with pytest.warns(UserWarning, match="published"):
        assert len(read_annotations("evqa", "eval", folder).records) == 3
