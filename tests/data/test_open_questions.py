"""Free questions out of annotation files: rewordings are cleaned, faults are named."""

import hashlib
import json

import pytest

from liveedit_jax.data.open_questions import OpenQuestion, clean_rewording, read_open_questions

SRC = "How many pears lie here?"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("What is the number of pears?", "What is the number of pears?"),
        ('"What is the number of pears?"', "What is the number of pears?"),
        ("Rewritten question: What is the number?", "What is the number?"),
        ('Rewritten question: "What is the number?"', "What is the number?"),
        (f'"{SRC}"\n\nRewritten as:\n"What is the number?"', "What is the number?"),
        (f'"{SRC}"\n\n"Which number?"\n\n"What count?"', "Which number?"),
        ('What does the word "pear" mean?', 'What does the word "pear" mean?'),
        (SRC.lower(), None),
        (f'Can you please reword the question: "{SRC}"', None),
        ("", None),
    ],
)
def test_the_rewording_is_what_the_file_means(text, says):
    assert clean_rewording(SRC, text) == says


def row(i, **changes):
    return {"src": f"What is {i}?", "rephrase": f'"Which is {i}?"', "alt": f"pear {i} "} | changes


def test_rows_of_several_files_once_each(tmp_path):
    first, second = tmp_path / "vqa_train.json", tmp_path / "train.json"
    first.write_text(json.dumps([row(0), row(1, image="a.jpg"), row(1, image="b.jpg")]))
    second.write_text(json.dumps([row(2, rephrase="What is 2?"), row(3), row(0)]))
    found = read_open_questions([first, second])
    assert found.rows == tuple(
        OpenQuestion(f"What is {i}?", f"Which is {i}?", f"pear {i}") for i in (0, 1, 3)
    )
    assert found.sha256 == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (first, second)
    }


def test_what_cannot_be_read_is_named(tmp_path):
    file = tmp_path / "rows.json"
    with pytest.raises(FileNotFoundError, match="no file of questions at"):
        read_open_questions([file])
    for content, says in (
        ("[", "not valid JSON"),
        ("{}", "has to be a list"),
        (json.dumps([row(0), 3]), "row 1 has to be an object"),
        (json.dumps([row(0, alt=None)]), "row 0: field 'alt' has to be a string"),
        (json.dumps([row(0, rephrase="What is 0?")]), "no question with another wording"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=says):
            read_open_questions([file])
    file.write_text(json.dumps([row(0)]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rows.json").write_text("[]")
    with pytest.raises(ValueError, match="two files of questions are called rows.json"):
        read_open_questions([file, tmp_path / "other" / "rows.json"])
