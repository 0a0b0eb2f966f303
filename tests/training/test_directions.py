"""The fit of routing keys: the threshold's share, and questions told apart."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import DirectionsFitConfig, EditorConfig
from liveedit_jax.data.asked import draw_groups
from liveedit_jax.data.open_questions import OpenQuestion
from liveedit_jax.editor import directions
from liveedit_jax.training.directions import Asked, fit_image, fit_text

D = 8
CFG = EditorConfig(
    module_width=8, heads_n=2, rank=2, queries_n=2, image_direction_n=D, text_direction_n=6
)
FIT = DirectionsFitConfig(
    groups_n=40, asked_n=4, batch_groups_n=8, steps_n=300, image_false_share=0.05, dropout=0.0
)


def test_the_threshold_lets_the_share_of_wrong_pairs_through_whatever_all_pictures_share():
    own = jnp.repeat(jax.random.normal(jax.random.key(0), (30, D)), 2, axis=0)
    images = own + 0.1 * jax.random.normal(jax.random.key(1), own.shape) + 5.0
    params = fit_image(CFG, FIT, images)
    found = np.asarray(directions.direction(params, images))
    wrong = np.arange(60)[:, None] // 2 != np.arange(60) // 2
    hit = found @ found.T > params["threshold"]
    assert hit[wrong].mean() == pytest.approx(0.05, abs=0.002)
    assert hit[~wrong].mean() > 0.9


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


@pytest.mark.parametrize("wrong", [{"asked_n": 10}, {"batch_groups_n": 41}, {"dropout": 1.0}])
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match="asked_n|batch_groups_n|dropout"):
        replace(FIT, **wrong)
