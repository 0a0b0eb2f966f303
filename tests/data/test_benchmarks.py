"""Prepared benchmarks: the same rows, pictures left where they are, never stale."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveedit_jax.data.annotations import BENCHMARKS, PICTURE_FIELDS, read_annotations
from liveedit_jax.data.benchmarks import BUILDERS, load_benchmark
from liveedit_jax.data.images import picture_bytes
from liveedit_jax.data.records import PortabilityProbe

NAMES = [(name, split) for name, benchmark in BENCHMARKS.items() for split in benchmark.splits]
PORTS = {
    "onehop": [{"port_edit_q": "a?", "port_edit_a": "b", "port_q": "c? ", "port_a": "d\n"}],
    "multihop": [
        {"port_type": "1-hop", "Q&A": {"Question": "e?", "Answer": "f"}},
        {"port_type": "3-hop", "Q&A": {"Question": "g?", "Answer": "h ß"}},
    ],
}


def made_row(i: int, split: str) -> dict:
    row = {
        "src": f"Which card is number {i}?\n",
        "pred": "",
        "rephrase": f"What is card {i} called? ",
        "alt": f"Karte für {i}",
        "image": f"cards/{i}.png",
        "image_rephrase": f"again/{i % 3}.png",
        "loc": "nq question: what comes after one",
        "loc_ans": "two",
        "m_loc": "cards/0.png",
        "m_loc_q": "Is this a card?",
        "m_loc_a": "yes",
    }
    return row | ({"port_new": PORTS[split]} if split in PORTS else {})


def annotate(folder: Path, rows: list, name="evqa", split="eval") -> None:
    file = folder / BENCHMARKS[name].splits[split].file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows))


def laid_out(folder: Path, n: int = 12, name="evqa", split="eval") -> list[dict]:
    rows = [made_row(i, split) for i in range(n)]
    annotate(folder, rows, name, split)
    for row in rows:
        for field in PICTURE_FIELDS:
            file = folder / BENCHMARKS[name].pictures / row[field]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (3, 2), (0, 80, 160)).save(file)
    return rows


@pytest.fixture
def load(tmp_path):
    def load(name="evqa", split="eval", **options):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* are published")
            folders = {"manual_dir": tmp_path / "laid", "data_dir": tmp_path / "tfds"}
            return load_benchmark(name, split, **folders, **options)

    return load


@pytest.mark.parametrize("name, split", NAMES)
def test_records_are_the_rows_of_the_file_in_its_order(load, tmp_path, name, split):
    rows = laid_out(tmp_path / "laid", name=name, split=split)
    source = load(name, split)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = read_annotations(name, split, tmp_path / "laid").records
    folder = tmp_path / "laid" / BENCHMARKS[name].pictures
    want = [
        replace(r, dataset=name, **{field: folder / r[field] for field in PICTURE_FIELDS})
        for r in read
    ]
    assert list(source) == want and len(source) == len(rows) == 12
    assert [record.row for record in source] == list(range(12))
    assert source[3].src == rows[3]["src"] and source[3].entity == "cards/3.png"
    assert all(picture_bytes(source[5][field])[1:4] == b"PNG" for field in PICTURE_FIELDS)


def test_probes_of_several_hops_come_back(load, tmp_path):
    laid_out(tmp_path / "laid", 2, "vlkeb", "multihop")
    laid_out(tmp_path / "laid", 2, "vlkeb", "onehop")
    assert load("vlkeb", "multihop")[1].port == (
        PortabilityProbe("e?", "f", 1),
        PortabilityProbe("g?", "h ß", 3),
    )
    assert load("vlkeb", "onehop")[1].port == (PortabilityProbe("c? ", "d\n", 1, "a?", "b"),)


def test_it_is_a_sequence(load, tmp_path):
    laid_out(tmp_path / "laid")
    source = load()
    everything = list(source)
    assert source[-1] == everything[-1] and source[np.int64(2)] == everything[2]
    assert source[2:9:3] == everything[2:9:3] and source[::-1] == everything[::-1]
    assert source[50:] == [] and everything[4] in source
    assert [source[i] for i in (7, 1, 11, 0)] == [everything[i] for i in (7, 1, 11, 0)]
    for i in (12, -13):
        with pytest.raises(IndexError, match="of 12"):
            source[i]


def test_a_broken_picture_does_not_stop_the_build(load, tmp_path):
    rows = laid_out(tmp_path / "laid")
    (tmp_path / "laid" / "images" / rows[4]["image"]).write_bytes(b"no picture")
    assert load()[4].image.read_bytes() == b"no picture"


def test_changed_annotations_are_prepared_anew(load, tmp_path):
    rows = laid_out(tmp_path / "laid")
    load()
    prepared = list((tmp_path / "tfds" / "evqa").iterdir())
    load()
    assert list((tmp_path / "tfds" / "evqa").iterdir()) == prepared
    rows[2]["alt"] = "another"
    annotate(tmp_path / "laid", rows[:7])
    source = load()
    assert len(source) == 7 and source[2].alt == "another"
    assert len(list((tmp_path / "tfds" / "evqa").iterdir())) == 2


def test_another_process_that_prepares_the_same_rows_first_is_no_error(load, tmp_path, monkeypatch):
    laid_out(tmp_path / "laid")
    generate, others = BUILDERS["evqa"]._generate_examples, []

    def overtaken(self, records):
        if not others:
            others.append(None)
            others.append(load())  # begins later, ends earlier
        return generate(self, records)

    monkeypatch.setattr(BUILDERS["evqa"], "_generate_examples", overtaken)
    source = load()
    assert list(source) == list(others[1]) and len(source) == 12
    assert len(list((tmp_path / "tfds" / "evqa").glob("*/*"))) == 1


def test_missing_pictures_are_counted_and_the_first_ten_listed(load, tmp_path):
    rows = laid_out(tmp_path / "laid", 14)
    for row in rows[1:]:
        (tmp_path / "laid" / "images" / row["image"]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load()
    text = str(caught.value)
    assert "13 pictures of 13 rows" in text and "--allow-missing (allow_missing=True)" in text
    assert "row 1: cards/1.png (image)" in text and "row 10: cards/10.png" in text
    assert "row 11" not in text and "and 3 more" in text
    assert not (tmp_path / "tfds").exists()


def test_allowed_missing_rows_are_left_out_by_name_and_come_back(load, tmp_path):
    rows = laid_out(tmp_path / "laid")
    whole = [tmp_path / "laid" / "images" / rows[i]["image"] for i in (3, 8)]
    data = whole[0].read_bytes()
    for file in whole:
        file.unlink()
    with pytest.warns(UserWarning, match="2 pictures of 2 rows") as warned:
        source = load(allow_missing=True)
    text = str(warned[0].message)
    assert "row 3: cards/3.png (image)" in text and "row 8: cards/8.png" in text
    assert [lack.row for lack in source.left_out] == [3, 8]
    assert [record.row for record in source] == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]
    whole[0].write_bytes(data)
    with pytest.warns(UserWarning, match="1 pictures of 1 rows"):
        assert [r.row for r in load(allow_missing=True)] == [*range(8), 9, 10, 11]
    whole[1].write_bytes(data)
    assert len(load()) == 12 and load(allow_missing=True).left_out == ()


def test_a_folder_without_pictures_is_named(load, tmp_path):
    rows = laid_out(tmp_path / "laid", 2)
    for file in (tmp_path / "laid" / "images").rglob("*.png"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no row has all its pictures"):
        load(allow_missing=True)
    annotate(tmp_path / "empty", rows)
    with (
        pytest.warns(UserWarning, match="published"),
        pytest.raises(FileNotFoundError, match="no picture folder .*images"),
    ):
        load_benchmark("evqa", "eval", manual_dir=tmp_path / "empty")


def test_unknown_names(load):
    with pytest.raises(KeyError, match="known: evqa, eic, vlkeb"):
        load("coco")
    with pytest.raises(KeyError, match="edit_stream"):
        load("mojiedit")
    with pytest.raises(ValueError, match="no split 'test'"):
        load("evqa", "test")
