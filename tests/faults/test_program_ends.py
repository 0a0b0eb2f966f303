"""However the program ends: one line, a status that tells, and nothing done by halves."""

import io
import json
import os
import sys
from types import SimpleNamespace

import pytest

from experiments import lifelong_eval
from experiments.training.arguments import positive
from liveedit_jax import cli
from liveedit_jax.cli import program, requests, shell, verbs
from liveedit_jax.evaluation.run import parse_marks, parse_seeds
from liveedit_jax.session.results import EditResult

NUMBERS = [
    "1_0",
    "１０",
    "٣",
    "0x10",
    "1e3",
    "+5",
    " 7",
    "7 ",
    "",
    "-1",
    "0",
    "1.0",
    "None",
    "9" * 5_000,
]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_plain_digits(number, capsys):
    for words in (["forget", number], ["rollback", number], ["list", "--max-edits", number]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(words)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and len(said) < 1_200, said
    for parse in (parse_marks, parse_seeds):
        if number != "0":
            with pytest.raises(ValueError, match="give (different )?numbers"):
                parse(number)
    for kind in (int, float):
        if kind is int or number in ("1_0", "", "-1", "0", "None", "0x10"):
            with pytest.raises(Exception, match="is not a"):
                positive(kind)(number)
    with pytest.raises(Exception, match="a number above 0"):
        positive(float)("inf")


@pytest.mark.parametrize("seeds", ["0,0", "1,2,1", "0,00", "1_0", "", "0,", "a", "-1"])
def test_a_seed_is_not_counted_twice(seeds, tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(lifelong_eval, "_run", lambda spec, out: ran.append(spec.seed) or {})
    monkeypatch.setattr(lifelong_eval, "write_summary", lambda runs, file: None)
    words = ["--config", "tiny", "--marks", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["lifelong_eval", "--seeds=" + (seeds or ","), *words])
    assert lifelong_eval.main() == 2 and ran == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "give different numbers like 0,1,2" in said
    monkeypatch.setattr("sys.argv", ["lifelong_eval", "--seeds", "0,2", *words])
    assert lifelong_eval.main() == 0 and ran == [0, 2]


@pytest.fixture
def words(tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "prompt": f"q{i}", "target": "t"} for i in range(40)]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["edit", "--from", str(tmp_path / "e.jsonl"), "--repo", str(tmp_path / "repo")]


class Session:
    """Stands for an open repository; the edits are made by `stored`."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


@pytest.fixture
def stored(monkeypatch):
    """The ids of the edits that `edit` has made so far."""
    made, session = [], Session()

    def store(editor, lines, file, check):
        for i, _ in enumerate(lines, 1):
            made.append(i)
            yield EditResult(i)

    monkeypatch.setattr(program, "_session", lambda args, write=False: session)
    monkeypatch.setattr(requests, "store", store)
    yield made
    assert session.closed


def test_edits_whose_reader_goes_away_end_with_a_status(words, stored, monkeypatch, capsys):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as out:
        os.close(reader)
        monkeypatch.setattr("sys.stdout", out)
        assert cli.main(words) == 141
    assert stored == [1]
    said = capsys.readouterr().err
    assert said == (
        "liveedit: note: nobody reads the ids any more: stopped; the edits made so far are stored\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_cannot_be_written_is_one_line(words, stored, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said == (
        "liveedit: error: standard output cannot be written to (No space left on device)\n"
    )


def test_the_version_too_has_to_be_written(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert cli.main(["--version"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_with_standard_output_closed_nothing_is_done(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    assert cli.main(words) == 2
    monkeypatch.undo()
    assert capsys.readouterr().err.startswith("liveedit: error: standard output is closed")
    assert not (tmp_path / "repo").exists()


def test_with_standard_error_closed_the_ids_are_still_told(words, stored, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)
    assert cli.main(words) == 0
    sys.stderr.close()
    monkeypatch.undo()
    assert capsys.readouterr().out.split() == [str(i + 1) for i in range(40)]


def test_a_narrow_standard_output_takes_any_character(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    program.prepare_streams()
    print("größer 狐 \ud800")
    out.flush()
    assert out.buffer.getvalue() == b"gr\\xf6\\xdfer \\u72d0 \\ud800\n"
    edit = SimpleNamespace(id=1, file="größe.png", request=SimpleNamespace(
        prompt="Größe?", target="狐", image="0" * 64))  # fmt: skip
    store = SimpleNamespace(history=SimpleNamespace(live_edits=lambda: [edit]))
    out.seek(0)
    out.truncate()
    verbs.list_edits(store, SimpleNamespace(html=None, json=True))
    out.flush()
    assert json.loads(out.buffer.getvalue())["target"] == "狐"


@pytest.mark.parametrize("package", ["liveedit_jax.cli.program", "tqdm", "PIL"])
def test_a_missing_package_is_one_line(package, words, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "PIL":
        monkeypatch.delitem(sys.modules, "liveedit_jax.data.decoding", raising=False)
    monkeypatch.setattr(program, "_session", lambda args, write=False: Session())
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("liveedit: error: ") and package in said


def test_a_line_of_the_shell_that_is_no_text_is_refused_alone(monkeypatch, capsys):
    typed = b"edit --image a.png --prompt \xff --target b\ndance\nedit '\n\x00\nforget 1_0\nhelp\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
    program.prepare_streams()
    assert shell.run_shell(SimpleNamespace()) == 2
    out, err = capsys.readouterr()
    assert "rollback N" in out and err.count("liveedit") >= 5
    assert "not valid UTF-8" in err and "not a whole number" in err


@pytest.mark.parametrize("word", ["--co\nlour", "--colour=\x1b[31m", "x" * 9_000])
def test_an_argument_with_odd_characters_is_one_line(word, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["list", word])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "\x1b" not in said and len(said) < 1_200


def test_lack_of_memory_is_told_as_that(words, stored, monkeypatch, capsys):
    def read(args):
        raise MemoryError

    monkeypatch.setattr(verbs, "read_requests", read)
    monkeypatch.setattr(Session, "closed", True, raising=False)
    assert cli.main(words) == 2
    assert capsys.readouterr().err == "liveedit: error: out of memory\n"
