"""Metrics of one line."""

import pytest

from liveedit_jax.evaluation.metrics import exact_match, teacher_forced, token_accuracy, unedited

LINE = {
    "probe": "reliability",
    "target": "blue moon",
    "target_ids": [1, 2],
    "before_ids": [1, 3],
    "after_ids": [1, 2],
    "generated": "blue moon",
    "before_generated": "red",
    "hit_n": 2,
}


def test_token_accuracy_needs_equal_lengths_and_tokens():
    assert token_accuracy([1, 2, 3, 4], [1, 0, 3, 0]) == 0.5
    for bad in (([1], [1, 2]), ([], [])):
        with pytest.raises(ValueError):
            token_accuracy(*bad)


def test_edited_probes_compare_with_the_target():
    assert teacher_forced(LINE) == 1 and exact_match(LINE) == 1
    assert teacher_forced(unedited(LINE)) == 0.5 and exact_match(unedited(LINE)) == 0


@pytest.mark.parametrize("probe", ["text_locality", "image_locality", "same_image", "look_alike"])
def test_locality_compares_with_the_unedited_answer(probe):
    line = LINE | {"probe": probe}
    assert teacher_forced(line) == 0.5 and exact_match(line) == 0
    assert teacher_forced(unedited(line)) == 1 and exact_match(unedited(line)) == 1


def test_spaces_around_a_text_do_not_count():
    assert exact_match(LINE | {"generated": " blue moon ", "target": "blue moon"}) == 1
