"""Many questions at once have the answers that they have one by one."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from liveedit_jax import open_editor
from liveedit_jax.session import editor as session


def picture(shade):
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (shade, 90, 255 - shade)).save(out, format="PNG")
    return out.getvalue()


def test_questions_asked_together_are_answered_as_one_by_one(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "BATCH_N", 4)
    pictures = [picture(80 * i) for i in range(3)]
    with open_editor(model_folder, tmp_path / "repo", write=True) as editor:
        list(editor.edit_many([(shown, "What is this?", "a cat") for shown in pictures[:2]]))
        asked = [(shown, f"Is it {i}?") for i in range(2) for shown in (*pictures, None)]
        asked = [*asked, (pictures[0], "What is this called, and since when is it called so?")]
        together = list(editor.ask_many(asked))
        alone = [editor.ask(*question) for question in asked]
        short = list(editor.ask_many(asked[:3], tokens_n=2))
        assert list(editor.ask_many([])) == []
        with pytest.raises(ValueError, match="budget"):
            list(editor.ask_many([*asked[:2], (None, 40 * "why ")]))
    assert len({answer.has_image for answer in alone}) == 2
    for found, wanted in zip(together, alone, strict=True):
        weights = [[fired.weight for fired in answer.fired] for answer in (found, wanted)]
        np.testing.assert_allclose(*weights, rtol=1e-4)
        ids = [[fired.edit.id for fired in answer.fired] for answer in (found, wanted)]
        assert ids[0] == ids[1]
        assert found.kept == pytest.approx(wanted.kept)
        assert replace(found, fired=(), kept=1.0) == replace(wanted, fired=(), kept=1.0)
    for found, whole in zip(short, together, strict=False):
        assert whole.before.startswith(found.before) and len(found.before) < len(whole.before)
