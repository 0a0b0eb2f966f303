"""The fit of routing keys: pictures and questions told apart, thresholds on unseen ones."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import DirectionsFitConfig, EditorConfig
from liveedit_jax.data.asked import draw_groups
from liveedit_jax.data.instances import draw_instances
from liveedit_jax.data.open_questions import OpenQuestion
from liveedit_jax.editor import directions
from liveedit_jax.editor.routing import FEWEST_EDITS
from liveedit_jax.training.directions import (
    Asked,
    Seen,
    fit_image,
    fit_image_map,
    fit_text,
)

D, SIDE = 8, 12
CFG = EditorConfig(
    module_width=8, heads_n=2, rank=2, queries_n=2, image_direction_n=D, text_direction_n=6
)
FIT = DirectionsFitConfig(
    groups_n=40,
    asked_n=4,
    batch_groups_n=8,
    steps_n=300,
    dropout=0.0,
    recoloured_n=1,
    collages_n=3,
    views_n=2,
    image_steps_n=300,
    image_batch_n=64,
    image_dropout=0.0,
)


@pytest.fixture(scope="module")
def seen():
    """A picture is 8 directions of 16 features; its views differ in the other 8."""
    own, views = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(SHAPES))
    own = jnp.broadcast_to(own[:, None], (*views.shape[:2], 8))
    scale = jnp.asarray([1.0] * 8 + [3.0] * 8)
    return Seen(
        5.0 + scale * jnp.concatenate([own, views], -1), np.arange(240) // 2, np.arange(240) < 160
    )


SHAPES = (240, 8), (240, 3, 8)


def test_views_of_a_picture_are_told_from_other_pictures(seen):
    params = fit_image_map(CFG, FIT, seen, 0)
    found = directions.direction(params, seen.features)
    cosine = np.asarray(found[:, 0] @ found[:, 1].T)
    own, other = np.diag(cosine), cosine[np.arange(240)[:, None] // 2 != np.arange(240) // 2]
    assert np.quantile(own, 0.05) > np.quantile(other, 0.95)
    raw = seen.features - seen.features[:, 0].mean(0)
    raw = raw / jnp.linalg.norm(raw, axis=-1, keepdims=True)
    untrained = np.diag(np.asarray(raw[:, 0] @ raw[:, 1].T))
    assert np.quantile(untrained, 0.05) < 0 < np.quantile(own, 0.05)


def test_the_threshold_lets_so_many_unseen_pictures_through_among_so_many_edits(seen):
    fit = replace(FIT, image_false_hits=5.0)
    params = fit_image(CFG, fit, seen, 0)
    unseen = seen.is_drawing & (seen.subject % 4 == 0)
    apart = fit_image_map(CFG, fit, Seen(*(part[~unseen] for part in seen)), 0)
    found = directions.direction(apart, seen.features[unseen, 0])
    subject = seen.subject[unseen]
    wrong = np.asarray(found @ found.T)[subject[:, None] != subject]
    for edits_n in (FEWEST_EDITS, 2_000):
        passed = wrong > params["threshold"] + params["growth"] * np.log(edits_n / FEWEST_EDITS)
        assert passed.mean() == pytest.approx(5.0 / edits_n, abs=2 / len(wrong))
    assert params["growth"] > 0


def test_pictures_of_their_own_are_drawings_photographs_recoloured_ones_and_collages():
    rng = np.random.default_rng(0)
    drawings = [rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for _ in range(4)]
    grey = np.full((SIDE, SIDE, 3), 90, np.uint8)
    made = list(draw_instances(FIT, [*drawings, grey], [0, 0, 1, 1, 2], [grey], 0))
    assert [one.subject for one in made[:5]] == [0, 0, 1, 1, 2]
    assert [one.is_drawing for one in made] == [True] * 5 + [False] * (1 + 4 + 3)
    assert [one.subject for one in made[5:]] == list(range(3, 11))  # grey cannot be recoloured
    assert all(one.views.shape == (3, SIDE, SIDE, 3) for one in made)
    np.testing.assert_array_equal(made[0].views[0], drawings[0])
    assert all((one.views[0] != one.views[1]).any() for one in made if one.views[0].std() > 1)
    assert not any((made[6 + i].views[0] == drawings[i]).all() for i in range(4))


def test_wordings_of_a_question_score_above_0_and_its_groups_other_questions_below():
    """A question is a direction of half of the features; the other half tells the group."""
    keys = jax.random.split(jax.random.key(2), 3)
    question = jax.random.randint(keys[0], (40, 1), 0, 12) + jnp.arange(4) * 3
    asked = jax.random.normal(keys[1], (24, D))[question]  # f32[G, N, D]
    group = jnp.broadcast_to(jax.random.normal(keys[2], (40, 1, D)), asked.shape)
    noise = 0.1 * jax.random.normal(jax.random.key(3), (40, 4, 2, 2 * D))
    features = jnp.concatenate([asked, 3 * group], -1)[:, :, None] + noise
    params = fit_text(CFG, FIT, Asked(features, question), 0)
    unit = directions.direction(params, features)
    score = jnp.einsum("gnw,gmw->gnm", unit[:, :, 0], unit[:, :, 1])
    score = np.asarray(params["slope"] * score - params["offset"])
    same = np.asarray(question[:, :, None] == question[:, None])
    assert (score[same] > 0).mean() > 0.95 and (score[~same] > 0).mean() < 0.05


def test_groups_ask_different_questions_in_two_wordings_and_are_a_function_of_the_seed():
    free = [OpenQuestion(f"is it {i}?", f"{i}, is it?", "yes") for i in range(9)]
    groups = draw_groups(FIT, 5, 0, free)
    assert groups.picture.shape == (40, 4, 2) and groups.picture.max() < 10
    for prompts, shown, question in zip(*groups, strict=True):
        assert len(set(question)) == 4 and len(np.unique(shown // 2)) == 1
        assert all(a != b for a, b in prompts)
    said = {prompts[0] for prompts in groups.prompts}
    assert said & {(row.src, row.rephrase) for row in free}
    again = draw_groups(FIT, 5, 0, free)
    assert again.prompts == groups.prompts
    np.testing.assert_array_equal(again.question, groups.question)
    assert draw_groups(FIT, 5, 1, free).prompts != groups.prompts
    assert not {row.src for row in free} & {a for p in draw_groups(FIT, 5, 0).prompts for a, _ in p}


@pytest.mark.parametrize(
    "wrong", [{"asked_n": 10}, {"batch_groups_n": 41}, {"dropout": 1.0}, {"image_false_hits": 0.0}]
)
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match="asked_n|batch_groups_n|dropout|image_false_hits"):
        replace(FIT, **wrong)
