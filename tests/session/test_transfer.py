"""Edits move as JSON lines with their pictures, and come out of old repository folders."""

import io
import json
import sqlite3
from contextlib import closing

import pytest
from PIL import Image

from liveedit_jax.cli import main
from liveedit_jax.session import open_editor, open_model
from liveedit_jax.session.transfer import export_edits, import_edits
from liveedit_jax.store import image_sha256


def picture(shade):
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (shade, 90, 255 - shade)).save(out, format="PNG")
    return out.getvalue()


def listed(editor):
    return [(e.request, e.file) for e in editor.edits()]


@pytest.fixture(scope="module")
def model(model_folder):
    return open_model(model_folder)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """An exported file, and what the repository that it is from holds."""
    folder = tmp_path_factory.mktemp("export")
    file, shown = folder / "edits.jsonl", folder / "red.png"
    shown.write_bytes(picture(200))
    with open_editor(model, folder / "repo", write=True, refine_n=0) as editor:
        editor.edit(shown, "What is this?", "a cat", check=False)
        rows = [(picture(0), "Who?", "zebra"), (shown, "What is this?", "a dög")]
        editor.edit_many(rows, check=False)
        assert export_edits(editor.store, file).edits_n == 2
        with pytest.raises(FileExistsError, match="choose a new name"):
            export_edits(editor.store, file)
        return file, listed(editor), folder / "repo"


def test_an_exported_file_is_imported_once(model, exported, tmp_path):
    file, edits, _ = exported
    assert {name for line in file.open() for name in json.loads(line)} >= {"image", "prompt"}
    with open_editor(model, tmp_path / "repo", write=True, refine_n=0) as editor:
        for _ in range(2):
            assert import_edits(editor, file).edits_n == 2
            assert listed(editor) == edits


def test_bad_lines_are_named_and_the_others_are_stored(model_folder, exported, tmp_path, capsys):
    file, edits, _ = exported
    good = file.read_text().splitlines()
    bad = ["{", "[" * 100_000, "[]", '{"prompt": "a?", "target": "b", "image": "?"}']
    bad += [json.dumps(json.loads(good[0]) | {"target": " "}), good[0].replace("iVBOR", "AAAAA")]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join([*bad[:3], good[0], "", *bad[3:], good[1]]) + "\n")
    words = ("--repo", str(tmp_path / "repo"), "--model", str(model_folder))
    assert main(["import", str(mixed), *words]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("imported 2 edits") and len(err.splitlines()) == 1
    assert "line 1: it is not valid JSON" in err and "and 5 more: line 2, line 3, line 6" in err
    assert main(["import", str(tmp_path / "nothing"), *words]) == 2
    assert "no file and no folder" in capsys.readouterr().err
    with open_editor(model_folder, tmp_path / "repo") as editor:
        assert listed(editor) == edits


def test_export_leaves_a_damaged_picture_out_by_name(exported, tmp_path, capsys):
    repo = tmp_path / "repo"
    repo.write_bytes(exported[2].read_bytes())
    with closing(sqlite3.connect(repo)) as db, db:
        sha256 = image_sha256(picture(0))
        db.execute("UPDATE pictures SET bytes = x'00' WHERE sha256 = ?", (sha256,))
    file = tmp_path / "edits.jsonl"
    assert main(["export", str(file), "--repo", str(repo)]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("exported 1 edits") and len(err.splitlines()) == 1
    assert "edit 2: the picture" in err and len(file.read_text().splitlines()) == 1


def test_purge_erases_and_says_whether_the_picture_stays(model_folder, exported, tmp_path, capsys):
    repo = tmp_path / "repo"
    repo.write_bytes(exported[2].read_bytes())
    words = ("--repo", str(repo), "--model", str(model_folder))
    assert main(["purge", "1", *words]) == 0
    assert capsys.readouterr().out == "purged edit 1; its picture stays, another edit has it\n"
    assert main(["purge", "2", *words]) == 0
    assert capsys.readouterr().out == "purged edit 2\n"
    data = repo.read_bytes()
    assert b"a cat" not in data and b"zebra" not in data and picture(0) not in data
    assert picture(200) in data and "a dög".encode() in data


def test_a_repository_folder_of_before_is_imported(model, tmp_path):
    folder = tmp_path / "old"
    (folder / "images").mkdir(parents=True)
    (folder / "generation-3").mkdir()
    sha256 = []
    for shade in (10, 20, 30):
        sha256.append(image_sha256(picture(shade)))
        (folder / "images" / sha256[-1]).write_bytes(picture(shade))
    (folder / "images" / sha256[2]).write_bytes(b"damaged")

    def edit(seq, edit_id, image, target, supersedes=None, **more):
        record = {"seq": seq, "op": "edit", "id": edit_id, "image": sha256[image]}
        return record | {"prompt": "p?", "target": target, "supersedes": supersedes} | more

    records = [
        edit(1, 1, 0, "a"),
        edit(2, 2, 1, "b", file="b.png"),
        edit(3, 3, 0, "c", supersedes=1),
        {"seq": 4, "op": "forget", "id": 2},
        {"seq": 5, "op": "rollback", "operations_n": 2},
        edit(6, 4, 2, "d"),
    ]
    lines = [json.dumps({"crc32": "0" * 8, "record": record}) for record in records]
    (folder / "generation-3/journal.jsonl").write_text("\n".join([*lines, '{"crc32":"torn']))
    header = {"format": 2, "generation": 3}
    (folder / "header.json").write_text(json.dumps({"crc32": "0" * 8, "record": header}))
    with pytest.raises(ValueError, match="earlier version.*liveedit import"):
        open_editor(model, folder)
    with open_editor(model, tmp_path / "new", write=True, refine_n=0) as editor:
        done = import_edits(editor, folder)
        assert done.edits_n == 2 and done.refused == {"edit 4": "its picture is damaged"}
        assert [(r.target, file) for r, file in listed(editor)] == [("a", None), ("b", "b.png")]
        (folder / "generation-3/journal.jsonl").write_text("{}\n")
        with pytest.raises(ValueError, match="damaged"):
            import_edits(editor, folder)
