"""A model in memory and its edits: what a loop in Python needs."""

import io
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import liveedit_jax
from liveedit_jax import open_editor, open_model
from liveedit_jax.editor import liveedit
from liveedit_jax.session import EditResult, ImageFile, editing_session
from liveedit_jax.session import model as session_model

QUESTION = "What is this?"


def picture(shade):
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (shade, 90, 255 - shade)).save(out, format="PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def model(model_folder):
    return open_model(model_folder)


@pytest.fixture
def few(monkeypatch):
    """Batches of four rows."""
    for module in (editing_session, session_model):
        monkeypatch.setattr(module, "BATCH_N", 4)


@pytest.fixture
def decoded(monkeypatch):
    """Every picture that is decoded, by what errors call it."""
    names, preprocess = [], session_model.preprocess

    def count(cfg, data, name):
        names.append(name)
        return preprocess(cfg, data, name)

    monkeypatch.setattr(session_model, "preprocess", count)
    return names


def test_questions_asked_together_are_answered_as_one_by_one(model, few, tmp_path):
    pictures = [picture(80 * i) for i in range(3)]
    with open_editor(model, tmp_path / "repo", write=True, refine_n=0) as editor:
        editor.edit_many([(shown, QUESTION, "a cat") for shown in pictures[:2]], check=False)
        asked = [(shown, f"Is it {i}?") for i in range(2) for shown in (*pictures, None)]
        asked = [*asked, (pictures[0], "What is this called, and since when is it called so?")]
        together = list(editor.ask_many(asked))
        alone = [editor.ask(*question) for question in asked]
        short = list(editor.ask_many(asked[:3], tokens_n=2))
        assert list(editor.ask_many([])) == []
        with pytest.raises(ValueError, match="budget"):
            list(editor.ask_many([*asked[:2], (None, 40 * "why ")]))
        with pytest.raises(ValueError, match="tokens_n=0"):
            editor.ask(*asked[0], tokens_n=0)
    assert len({answer.has_image for answer in alone}) == 2
    for found, wanted in zip(together, alone, strict=True):
        for name in ("fired", "nearest"):
            ours, theirs = getattr(found, name), getattr(wanted, name)
            assert [e.edit.id for e in ours] == [e.edit.id for e in theirs]
            for field in ("weight", "image_margin", "text_score"):
                values = [[getattr(e, field) for e in edits] for edits in (ours, theirs)]
                np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)
        assert len(found.nearest) == (2 if found.has_image else 0)
        assert sum(e.image_margin > 0 for e in found.nearest) == found.hit_n
        assert found.kept == pytest.approx(wanted.kept)
        same = {"fired": (), "nearest": (), "kept": 1.0}
        assert replace(found, **same) == replace(wanted, **same)
    for found, whole in zip(short, together, strict=False):
        assert whole.before.startswith(found.before) and len(found.before) < len(whole.before)
    assert list(model.answer_many(asked)) == [answer.before for answer in together]


def test_an_edit_says_what_is_answered_now_and_decodes_its_picture_once(
    model, few, tmp_path, decoded, monkeypatch
):
    file = tmp_path / "red.png"
    file.write_bytes(picture(200))
    with open_editor(model, tmp_path / "repo", write=True, refine_n=0) as editor:
        first = editor.edit(file, QUESTION, "a cat")
        assert decoded == ["red.png"]
        assert first.now == editor.ask(file, QUESTION).after
        assert first.took == (first.now == "a cat")
        with monkeypatch.context() as patch:
            patch.setattr(session_model.OpenModel, "generate", lambda self, *_: ["a dog"])
            assert editor.edit(file, QUESTION, " a dog ") == EditResult(2, "a dog", True)
        del decoded[:]
        heard = []
        rows = [(picture(10 * i), QUESTION, f"answer {i}") for i in range(5)]
        results = editor.edit_many(rows, check=False, tick=heard.append)
        assert len(decoded) == 5 and heard == [4, 1]
        assert [(r.id, r.now, r.took) for r in results] == [(i, None, None) for i in range(3, 8)]
        (named,) = editor.edit_many([(ImageFile(picture(7), "seven.png"), QUESTION, "7")])
        edits = editor.edits()
    assert [edit.id for edit in edits] == [2, 3, 4, 5, 6, 7, named.id]
    assert [edit.file for edit in edits] == ["red.png", *[None] * 5, "seven.png"]


def test_a_refined_expert_is_the_one_that_is_stored(model, few, tmp_path, monkeypatch):
    def generate(*_, **__):
        raise AssertionError("without a check nothing is generated")

    monkeypatch.setattr(session_model.OpenModel, "generate", generate)
    rows = [(picture(60 * i), QUESTION, f"answer {i}") for i in range(3)]
    bodies = {}
    for refine_n in (0, 2):
        path = tmp_path / f"repo {refine_n}"
        with open_editor(model, path, write=True, refine_n=refine_n) as editor:
            editor.edit_many(rows, check=False)
            question = [(picture(60), QUESTION, "answer 1")]
            before = editor.logits(question)[0]
        with open_editor(model, path) as editor:  # as it is on disk
            np.testing.assert_array_equal(editor.logits(question)[0], before)
            (bodies[refine_n],) = [arrays for _, arrays in editor.store.experts(block_n=3)]
    for name in ("down", "text_key", "vision_key"):
        np.testing.assert_array_equal(bodies[0][name], bodies[2][name])
    assert (bodies[0]["up"] != bodies[2]["up"]).any(axis=(1, 2)).all()  # random: none takes
    with pytest.raises(ValueError, match="refine_n=-1"):
        open_editor(model, tmp_path / "repo 0", write=True, refine_n=-1)


def test_a_repository_is_where_it_was_said_to_be(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no edit repository at my edits/one"):
        open_editor(model, "my edits/one")
    with open_editor(model, "my edits/one", write=True, refine_n=0) as editor:
        editor.edit(picture(0), QUESTION, "a cat", check=False)
    assert (tmp_path / "my edits/one").is_file()
    with open_editor(model, "my edits/one") as editor:
        assert [edit.request.target for edit in editor.edits()] == ["a cat"]


def test_what_is_refused_changes_nothing(model, few, tmp_path):
    good = (picture(0), QUESTION, "a cat")
    with open_editor(model, tmp_path / "repo", write=True, refine_n=0, max_edits=6) as editor:
        editor.edit(*good, check=False)
        for bad, error in (
            ((picture(1), " ", "a cat"), "prompt is empty"),
            ((picture(1), QUESTION, "xq " * 40), "budget is 24"),
            ((tmp_path / "none.png", QUESTION, "a cat"), "no image file"),
            ((None, QUESTION, "a cat"), "not NoneType"),
            ((picture(1), QUESTION, None), "are strings"),
        ):
            with pytest.raises((ValueError, FileNotFoundError, TypeError), match=error):
                editor.edit_many([*[(picture(9), f"{i}?", "a") for i in range(5)], bad])
            assert [edit.id for edit in editor.edits()] == [1]
        rows = [(picture(9), f"Is it {i}?", "a") for i in range(5)]
        with pytest.raises(ValueError, match="the picture is not a readable image"):
            editor.edit_many([*rows[:4], (b"no picture", QUESTION, "a")], check=False)
        assert len(editor.edits()) == 5  # those of the batch before it
        with pytest.raises(OverflowError, match="full: 6 live edits"):
            editor.edit_many([*rows, (picture(8), QUESTION, "a")], check=False)
        assert len(editor.edits()) == 6
    before = (tmp_path / "repo").read_bytes()
    with open_editor(model, tmp_path / "repo") as editor:
        with pytest.raises(ValueError, match="open it with write=True"):
            editor.edit(picture(2), QUESTION, "a")
        with pytest.raises(ValueError, match="reading only"):
            editor.forget(1)
    assert (tmp_path / "repo").read_bytes() == before


def test_logits_predict_the_answers_tokens(model, few, tmp_path):
    rows = [
        (picture(0), QUESTION, "a cat"),
        (None, "Who?", "somebody, or nobody at all"),
        (picture(90), "Is it 1?", "no"),
        (picture(0), "Is it 2?", "never again, so far"),
        (picture(0), QUESTION, "a"),
    ]
    before, ids = model.logits(rows), model.answer_ids(rows)
    assert [len(i) for i in ids] == [len(x) for x in before] and len({*map(len, ids)}) > 2
    assert "".join(map(model.tokenizer.decode, ids[0][None])).strip() == "a cat"
    for row, found in zip(rows, before, strict=True):
        assert found.dtype == np.float32 and found.shape[1] == model.backbone.cfg.decoder.vocab_n
        np.testing.assert_allclose(found, model.logits([row])[0], atol=1e-4)
    np.testing.assert_allclose(before[4][0], before[0][0], atol=1e-4)  # the same before the answer
    with open_editor(model, tmp_path / "repo", write=True, refine_n=0) as editor:
        for found, unedited in zip(editor.logits(rows), before, strict=True):
            np.testing.assert_allclose(found, unedited, atol=1e-4)
        editor.edit_many(
            [(picture(0), QUESTION, "a dog"), (picture(90), QUESTION, "b")], check=False
        )
        after = editor.logits(rows)
        batch, position, _ = next(model.answer_batches(rows[:4]))
        params = {"backbone": model.weights, "editor": model.parts.editor}
        every, _ = jax.jit(liveedit.logits, static_argnums=(0, 1))(
            editor.encoder.cfg,
            model.backbone,
            params,
            editor.live.repo,
            jax.tree.map(np.asarray, batch),
        )
    for b in range(4):
        np.testing.assert_allclose(after[b], every[b, position[b, : len(ids[b])]], atol=1e-4)
    np.testing.assert_allclose(after[1], before[1], atol=1e-4)  # no picture: no edit


def test_a_model_without_an_editor_answers_and_takes_no_edits(model_folder, model, tmp_path):
    folder = tmp_path / "backbone alone"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("editor"))
    alone = open_model(folder)
    assert alone.answer(picture(0), QUESTION) == model.answer(picture(0), QUESTION)
    with pytest.raises(ValueError, match="no editor in .*backbone alone.*import-editor"):
        open_editor(alone, tmp_path / "repo", write=True)
    with pytest.raises(ValueError, match="no chat template"):
        open_editor(model, tmp_path / "repo", write=True, chat=True)
    assert not (tmp_path / "repo").exists()


def test_names_are_loaded_when_they_are_asked_for():
    assert set(liveedit_jax.__all__) <= set(dir(liveedit_jax))
    with pytest.raises(AttributeError, match="no attribute 'edit'"):
        _ = liveedit_jax.edit
