"""Folders of photographs made of stamps: the same every time, and fit for the study."""

import io
import json
import sys

import pytest
from PIL import Image, ImageDraw

from experiments.studies import photograph_cases
from experiments.studies.photograph_folder import read_cases
from experiments.studies.photograph_questions import QUESTIONS
from liveedit_jax.config import LengthBudget
from liveedit_jax.data.tokenise import tokenise_pair
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.presets import preset

NAMES = ("A cow.", "A cow.", "An oak tree.", "A red fox", "Some grass")  # none is held out


@pytest.fixture
def stamps(tmp_path):
    for i, text in enumerate(NAMES):
        file = tmp_path / "stamps" / ("plants" if i in (2, 4) else "animals") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cut_out = Image.new("RGBA", (90, 50 + i))
        ImageDraw.Draw(cut_out).ellipse((10, 5, 60, 40), fill=(50 * i, 90, 20))
        cut_out.save(file)
        file.with_suffix(".txt").write_text(text)
    return tmp_path / "stamps"


def made(monkeypatch, stamps, out, *more):
    given = ["--trained", "--stamps", str(stamps), "--out", str(out), *map(str, more)]
    monkeypatch.setattr(sys, "argv", ["photograph_cases", *given])
    return photograph_cases.main()


def test_a_folder_is_made_that_the_study_reads(stamps, tmp_path, monkeypatch, capsys):
    assert made(monkeypatch, stamps, tmp_path / "a", "--n", 4) == 0
    cases = read_cases(tmp_path / "a")
    assert sorted(case.name for case in cases) == ["cow", "grass", "oak-tree", "red-fox"]
    assert len({case.question for case in cases}) == 4
    for case in cases:
        assert len(set(case.others)) == 4 and "{" not in "".join(case.others)
        pictures = [Image.open(io.BytesIO(data)) for data in (case.picture, case.view)]
        assert pictures[0].size == pictures[1].size and case.picture != case.view
    assert made(monkeypatch, stamps, tmp_path / "b", "--n", 4) == 0
    assert read_cases(tmp_path / "b") == cases
    assert made(monkeypatch, stamps, tmp_path / "c", "--n", 4, "--seed", 1) == 0
    texts = [json.loads((tmp_path / name / "cases.json").read_text()) for name in "ac"]
    assert texts[0] != texts[1]


def test_what_cannot_be_made_is_refused(stamps, tmp_path, monkeypatch, capsys):
    assert made(monkeypatch, stamps, tmp_path / "a", "--n", 5) == 2
    assert "photographs of 4 names" in capsys.readouterr().err
    assert made(monkeypatch, tmp_path / "none", tmp_path / "a") == 2
    assert "no photographs below" in capsys.readouterr().err
    assert made(monkeypatch, stamps, stamps, "--n", 2) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_photographs_that_training_sees_are_left_out(stamps, tmp_path, monkeypatch, capsys):
    (stamps / "animals/0.txt").write_text("A goat.")  # held out
    given = ["--stamps", str(stamps), "--out", str(tmp_path / "a"), "--n", "1"]
    monkeypatch.setattr(sys, "argv", ["photograph_cases", *given])
    assert photograph_cases.main() == 0
    assert [case.name for case in read_cases(tmp_path / "a")] == ["goat"]


def test_questions_fit_the_smallest_model():
    cfg, budget = preset("tiny").backbone, LengthBudget()
    tokenizer = mojiedit_tokenizer(cfg.decoder.vocab_n)
    wordings = [wording for asked in QUESTIONS for wording in asked.wordings]
    assert len(wordings) == len(set(wordings)) == 2 * len(QUESTIONS) >= 48
    for asked in QUESTIONS:
        assert len(asked.wordings) == 2 and len(asked.answers) > 1
        for wording in asked.wordings:
            for answer in asked.answers:
                ids = tokenise_pair(
                    tokenizer, wording.format(thing="flower"), answer, cfg.after_image
                )
                assert len(ids[0]) <= budget.prompt_n and len(ids[1]) <= budget.answer_n
