"""Rows grouped by the number of experts they use."""

import numpy as np

from liveedit_jax.evaluation.batching import group_by_width
from liveedit_jax.types import Route


def route(weight):
    weight = np.asarray(weight, np.float32)
    return Route(np.zeros(weight.shape, np.int32), weight, (weight > 0).sum(1), weight.sum(1))


def test_every_chosen_row_is_in_a_group_that_holds_all_its_experts():
    weight = np.zeros((5, 8))
    for i, used in enumerate((0, 1, 2, 3, 8)):
        weight[i, :used] = 0.1
    groups = {k: rows.tolist() for rows, k in group_by_width(route(weight), [4, 2, 0, 3])}
    assert groups == {2: [2, 0], 8: [4, 3]}


def test_no_group_is_empty_and_one_expert_is_one_group():
    assert [k for _, k in group_by_width(route(np.zeros((3, 8))), [0, 2])] == [2]
    assert [k for _, k in group_by_width(route(np.ones((3, 8))), [1])] == [8]
    assert [(rows.tolist(), k) for rows, k in group_by_width(route(np.ones((2, 1))), [0, 1])] == [
        ([0, 1], 1)
    ]
    assert not list(group_by_width(route(np.ones((2, 8))), []))
