"""Annotation files: read as they are written, and every bad one is named with its row and field."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from liveedit_jax.data.annotations import BENCHMARKS, PICTURE_FIELDS, TEXT_FIELDS, read_annotations
from liveedit_jax.data.records import PortabilityProbe


def made_row(i: int, **changed) -> dict:
    row = {
        "src": f"Which card is number {i}?",
        "pred": "",
        "rephrase": f"What is card {i} called? ",
        "alt": f"the card of {i}\n",
        "image": "cards/same.jpg",
        "image_rephrase": f"again/{i}.png",
        "loc": "nq question: what comes after one",
        "loc_ans": "two ",
        "m_loc": "cards/same.jpg",
        "m_loc_q": "Is this a card?",
        "m_loc_a": "ja, größer",
    }
    return row | changed


def hop(kind="2-hop", **changed) -> dict:
    return {"port_type": kind, "Q&A": {"Question": "Who made it?", "Answer": "Ann"} | changed}


ONE_HOP = {"port_edit_q": "Who made 1?", "port_edit_a": "Bo", "port_q": "Who?", "port_a": "Cy"}


def written(folder: Path, text: str | bytes | list, name="evqa", split="eval") -> Path:
    file = folder / BENCHMARKS[name].splits[split].file
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(text) if isinstance(text, list) else text
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.fixture
def read(tmp_path):
    def read(text, name="evqa", split="eval"):
        written(tmp_path, text, name, split)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* are published")
            return read_annotations(name, split, tmp_path)

    return read


@pytest.mark.parametrize(
    "name, split", [(n, s) for n, b in BENCHMARKS.items() for s in b.splits if "hop" not in s]
)
def test_every_file_is_read_raw_and_in_order(read, name, split):
    rows = [made_row(i, extra=1) for i in range(5)]
    records = read(rows, name, split).records
    assert [record.row for record in records] == list(range(5))
    for record, row in zip(records, rows, strict=True):
        assert {f: record[f] for f in (*TEXT_FIELDS, "pred")} == {
            f: row[f] for f in (*TEXT_FIELDS, "pred")
        }
        assert {f: record[f] for f in PICTURE_FIELDS} == {f: Path(row[f]) for f in PICTURE_FIELDS}
        assert (record.entity, record.fact, record.split) == ("cards/same.jpg", "", split)
        assert record.port == ()


def test_portability_probes(read):
    one = read([made_row(0, port_new=[ONE_HOP])], "vlkeb", "onehop").records[0]
    assert one.port == (PortabilityProbe("Who?", "Cy", 1, "Who made 1?", "Bo"),)
    rows = [made_row(0, port_new=[hop("1-hop"), hop("4-hop", Answer="Di\n")])]
    many = read(rows, "vlkeb", "multihop").records[0]
    assert many.port == (
        PortabilityProbe("Who made it?", "Ann", 1),
        PortabilityProbe("Who made it?", "Di\n", 4),
    )


def test_another_number_of_rows_than_published_is_a_warning(tmp_path):
    counts = {n: [s.published_n for s in b.splits.values()] for n, b in BENCHMARKS.items()}
    assert counts == {"evqa": [6345, 2093], "eic": [2849, 1000], "vlkeb": [5000, 3174, 1278, None]}
    written(tmp_path, [made_row(0), made_row(1)])
    with pytest.warns(UserWarning, match="vqa_eval.json has 2 rows, 2093 are published"):
        read_annotations("evqa", "eval", tmp_path)
    written(tmp_path, [made_row(i) for i in range(1000)], "eic")
    written(tmp_path, [made_row(0, port_new=[hop()])], "vlkeb", "multihop")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_annotations("eic", "eval", tmp_path).records) == 1000
        read_annotations("vlkeb", "multihop", tmp_path)


def test_the_digest_follows_the_file(read):
    first = read([made_row(0)]).sha256
    assert read([made_row(0)]).sha256 == first != read([made_row(0, alt="x")]).sha256


@pytest.mark.parametrize(
    "text, says",
    [
        (json.dumps([made_row(0)])[:-9], "not valid JSON .*cut short"),
        (b"", "not valid JSON"),
        (b"\xff\xfe[]", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ('{"src": "a"}', "has to be a list of rows, it is dict"),
        ([], "has no rows"),
        ([made_row(0), "row"], "row 1 has to be an object, it is str"),
        ([made_row(0), {"src": "a"}], "row 1: field '\\w+' is missing"),
        ([made_row(0), made_row(1), made_row(0)], "row 2 is the same as row 0"),
        ([made_row(0, alt="\ud800")], "row 0: field 'alt' is not Unicode"),
    ],
)
def test_bad_files_are_named(read, text, says):
    with pytest.raises(ValueError, match=f"vqa_eval.json.*{says}"):
        read(text)


@pytest.mark.parametrize("field", [*TEXT_FIELDS, *PICTURE_FIELDS])
def test_every_field_has_to_be_text(read, field):
    for value, says in (
        (" \n", "is empty"),
        ("", "is empty"),
        (7, "it is int"),
        (None, "NoneType"),
    ):
        with pytest.raises(ValueError, match=f"vqa_eval.json, row 1: field '{field}' .*{says}"):
            read([made_row(0), made_row(1, **{field: value})])
    bad = made_row(1)
    del bad[field]
    with pytest.raises(ValueError, match=f"row 1: field '{field}' is missing"):
        read([made_row(0), bad])


def test_the_old_answer_may_be_blank_but_is_text(read):
    assert read([made_row(0, pred="")]).records[0].pred == ""
    with pytest.raises(ValueError, match="row 0: field 'pred' .* it is list"):
        read([made_row(0, pred=[])])


@pytest.mark.parametrize("path", ["/etc/x.png", "../x.png", "a/../../x.png", "a\\..\\x", "C:\\x"])
@pytest.mark.parametrize("field", PICTURE_FIELDS)
def test_pictures_stay_in_their_folder(read, field, path):
    with pytest.raises(ValueError, match=f"row 0: field '{field}' .* below the picture folder"):
        read([made_row(0, **{field: path})])
    assert read([made_row(0, **{field: "a..b/x..png"})])


@pytest.mark.parametrize(
    "split, port, says",
    [
        ("onehop", None, "has to be a list"),
        ("onehop", [], "at least one probe"),
        ("onehop", ["a"], "probe 0 is not an object"),
        ("onehop", [ONE_HOP | {"port_a": " "}], "probe 0: field 'port_a' is empty"),
        ("onehop", [hop()], "probe 0: field 'port_q' is missing"),
        ("multihop", [ONE_HOP], "probe 0: field 'port_type' is missing"),
        ("multihop", [hop(), hop("5-hop")], "probe 1: field 'port_type' is '5-hop'"),
        ("multihop", [hop(Question=3)], "probe 0: field 'Question' .* it is int"),
        ("multihop", [{"port_type": "1-hop", "Q&A": "a"}], "probe 0: field 'Q&A' has to be"),
    ],
)
def test_bad_portability_probes_are_named(read, split, port, says):
    with pytest.raises(ValueError, match=f"row 0.*{says}"):
        read([made_row(0, port_new=port)], "vlkeb", split)


def test_unknown_names_and_files_are_named(tmp_path):
    with pytest.raises(KeyError, match="unknown benchmark 'okvqa'; known: evqa, eic, vlkeb"):
        read_annotations("okvqa", "eval", tmp_path)
    with pytest.raises(KeyError, match="edit_stream"):
        read_annotations("mojiedit", "eval", tmp_path)
    with pytest.raises(ValueError, match="evqa has no split 'onehop'; splits: train, eval"):
        read_annotations("evqa", "onehop", tmp_path)
    with pytest.raises(FileNotFoundError, match="no annotation file .*vqa_train.json"):
        read_annotations("evqa", "train", tmp_path)


def test_rows_may_share_all_but_one_field(read):
    same = read([made_row(0), made_row(0, m_loc_q="Is it?")]).records
    assert replace(same[1], m_loc_q=same[0].m_loc_q, row=0) == same[0]
