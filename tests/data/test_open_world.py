"""Training samples of free questions about any picture; without them batches are as ever."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from liveedit_jax.backbone_config import AnyresConfig
from liveedit_jax.config import EditMixture, EditorTrainConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.facts import SOURCES
from liveedit_jax.data.images import drawing_png, preprocess
from liveedit_jax.data.open_questions import OpenQuestion, OpenQuestions
from liveedit_jax.data.open_world import VIEWS_N, OpenWorld
from liveedit_jax.data.stamps import Stamp
from liveedit_jax.data.views import another_view
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.presets import preset
from liveedit_jax.types import Role

TINY = preset("tiny")
RECIPE = EditorTrainConfig(batch_n=4, seed=5)
WIDE = EditMixture(lengths=((90, 1.0),))  # every made-up question fits


def stamp(i):
    cut_out, data = Image.new("RGBA", (50 + i, 40)), io.BytesIO()
    ImageDraw.Draw(cut_out).ellipse((3, 4, 30, 34), fill=(40 * i, 200 - 30 * i, 90))
    cut_out.save(data, format="PNG")
    return Stamp(f"animals/{i}.png", f"thing {i}", "animal", data.getvalue())


QUESTIONS = OpenQuestions(
    tuple(OpenQuestion(f"What is {i}?", f"Say {i}!", f"pear {i}") for i in range(9)),
    {"rows.json": "abc"},
)
STAMPS = tuple(stamp(i) for i in range(5))
OPEN = OpenWorld(QUESTIONS, STAMPS)


@pytest.fixture(scope="module")
def data():
    tokenizer = mojiedit_tokenizer(TINY.backbone.decoder.vocab_n)
    return EditingData(tokenizer, TINY.backbone, RECIPE, WIDE)


def opened(data, world=OPEN, **changes):
    return replace(data, open=world, mixture=replace(WIDE, **{"open_share": 1.0} | changes))


def digest(data):
    found = hashlib.sha256()
    for step in (0, 1, 7):
        batch = data.batch_at(step)
        for leaf in (batch.token, batch.role, batch.picture):
            found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def test_without_free_questions_batches_are_as_they_were(data):
    lengths = TINY.edit_mixture.lengths
    for name, known in (("tiny", "e79c9ad3a1bbc0fe"), ("smol", "487e3ca8c23d51fd")):
        mixture = replace(preset(name).edit_mixture, lengths=lengths)
        plain = replace(data, mixture=mixture)
        assert digest(plain) == known
        assert digest(replace(plain, open=OPEN)) == known
    assert data.batch_at(0).subject is None
    np.testing.assert_array_equal(data.batch_at(0).subjects, data.batch_at(0).picture // 2)


def said(data, batch, kind, j):
    token, role = batch.token[kind, j], batch.role[kind, j]
    prompt, answer = (data.tokenizer.decode(token[role == r]) for r in (Role.PROMPT, Role.ANSWER))
    return prompt.strip(), answer.strip()


@pytest.mark.parametrize("world", [OPEN, OpenWorld(QUESTIONS)])
def test_a_sample_is_a_free_question_about_a_picture_and_its_view(data, world):
    data = opened(data, world)
    by_src = {row.src: row for row in QUESTIONS.rows}
    kinds = {"same picture": 0, "same question": 0, "neither": 0}
    own_n = views_n = 0
    for step in range(20):
        batch = data.batch_at(step)
        assert batch.token.shape == (4, 4, 90)
        for j in range(4):
            rows = [said(data, batch, kind, j) for kind in range(4)]
            asked, target = by_src[rows[0][0]], rows[0][1]
            assert rows[1] == (asked.rephrase, target) and rows[2] == rows[0]
            own_n += target == asked.answer
            shown, again, view, far = batch.picture[:, j]
            subject = batch.subjects[:, j]
            assert shown == again != view and len(set(subject[:3])) == 1
            views_n += shown >= data.drawings_n and view >= data.drawings_n
            if far == shown:
                assert rows[3][0] not in (asked.src, asked.rephrase)
                kinds["same picture"] += 1
            else:
                assert subject[3] != subject[0]
                kinds["same question" if rows[3][0] == asked.src else "neither"] += 1
    assert all(n > 5 for n in kinds.values()) and 20 < own_n < 75 and views_n > 5
    last = len(data.pictures()) - 1 if world.stamps else 2 * data.drawings_n + data.drawings_n - 1
    assert batch.picture.max() <= last
    again = data.batch_at(19)
    np.testing.assert_array_equal(batch.token, again.token)
    np.testing.assert_array_equal(batch.picture, again.picture)


def test_the_share_and_siblings_are_the_mixtures(data):
    some = opened(data, open_share=0.5)
    batches = [some.batch_at(step) for step in range(30)]
    open_n = sum((batch.picture[0] >= some.drawings_n).sum() for batch in batches)
    assert 40 < open_n < 80
    siblings = opened(data, sibling_share=1.0)
    for step in range(3):
        batch = siblings.batch_at(step)
        assert len(set(batch.subjects[0])) == 1
        asked = [said(siblings, batch, 0, j)[0] for j in range(4)]
        assert all(a != b for a, b in zip(asked, asked[1:], strict=False))


def test_pictures_are_photographs_then_their_views(data):
    data = opened(data)
    first, n = data.drawings_n, 1 + VIEWS_N
    assert len(data.pictures()) == first + n * len(STAMPS)
    for i, shown in enumerate(STAMPS):
        numbers = range(first + n * i, first + n * (i + 1))
        wanted = [shown.picture] + [
            another_view(shown.picture, "training", shown.path, v) for v in range(VIEWS_N)
        ]
        for number, picture in zip(numbers, wanted, strict=True):
            pixels = preprocess(data.backbone, picture).pixels
            np.testing.assert_allclose(data.picture(number), pixels, atol=1e-6)
        assert len({data.picture(number).tobytes() for number in numbers}) == n
    drawn = opened(data, OpenWorld(QUESTIONS))
    view = another_view(drawing_png(drawn.entities[1], SOURCES[1], 60), "training", 3, 1)
    pixels = preprocess(data.backbone, view).pixels
    np.testing.assert_array_equal(drawn.picture(first + 3 * VIEWS_N + 1), pixels)


def test_photographs_are_squares_for_towers_that_tile(data):
    tiled = replace(TINY.backbone, tiles=AnyresConfig(grids=((1, 2), (2, 2))))
    data = replace(opened(data), backbone=tiled, mixture=EditMixture(open_share=1.0))
    batch = data.batch_at(0)
    assert batch.place is not None
    assert data.picture(int(batch.picture.max())).shape == tiled.image_shape


def test_a_step_of_several_batches_has_their_subjects(data):
    many = replace(opened(data), cfg=replace(RECIPE, accumulate_n=2)).batch_at(0)
    assert many.subject.shape == (2, 4, 4)


def test_what_is_missing_is_refused(data):
    with pytest.raises(ValueError, match="open_share=1.0 needs files of free questions"):
        opened(data, None)
    with pytest.raises(ValueError, match="open_share=1.5: a share between 0 and 1"):
        EditMixture(open_share=1.5)
    alike = OpenQuestions(QUESTIONS.rows[:1], {})
    with pytest.raises(ValueError, match="is another than 'What is 0"):
        opened(data, OpenWorld(alike, STAMPS)).batch_at(0)


def test_a_recipe_names_files_and_photographs():
    provenance = OPEN.provenance
    assert provenance["questions"] == {"rows.json": "abc"}
    assert provenance["stamps"]["n"] == 5 and len(provenance["stamps"]["sha256"]) == 64
    assert "stamps" not in OpenWorld(QUESTIONS).provenance
