"""Aggregates on lines made by hand."""

import pytest

from liveedit_jax.evaluation.aggregate import mark_figures, unedited_figures


def line(case, probe, after, **more):
    return {
        "mark": 2,
        "chunk": case // 2,
        "case": case,
        "probe": probe,
        "target": "t",
        "target_ids": [1, 2],
        "before_ids": [3, 2],
        "after_ids": after,
        "generated": "t",
        "before_generated": "b",
        "hit_n": 1,
    } | more


LINES = [
    line(0, "reliability", [1, 2]),
    line(1, "reliability", [1, 9], hit_n=4, generated="b"),
    line(0, "image_locality", [3, 2], hit_n=0, generated="b"),
    line(1, "image_locality", [0, 2]),
    line(0, "text_locality", [3, 2], hit_n=0, generated="b"),
    line(1, "look_alike", [3, 9]),
]


def test_figures_are_means_over_probes():
    probe = {"mark": 2, "probe": "reliability"}
    (figures,) = mark_figures(LINES, [probe | {"kept": 0.8}, probe | {"kept": 0.9}])
    assert (figures["edits"], figures["cases"]) == (2, 2)
    assert figures["reliability"] == 75 and figures["image_locality"] == 75
    assert figures["text_locality"] == 100 and figures["text_generality"] is None
    assert figures["average"] == pytest.approx(250 / 3)
    assert figures["exact_match"]["reliability"] == 50
    assert figures["exact_match"]["image_locality"] == 50
    assert figures["hard_locality"] == {
        "same_image": None,
        "same_image_held_out": None,
        "look_alike": 50,
    }
    assert figures["average_of_four"] == 75
    assert figures["hard_locality_n"] == {
        "same_image": 0,
        "same_image_held_out": 0,
        "look_alike": 1,
    }
    assert figures["hit_n_max"] == 4 and figures["hit_n_mean"] == pytest.approx(7 / 5)
    assert figures["kept_min"] == 0.8


def test_portability_is_apart_from_the_averages_and_from_the_counts_of_hits():
    more = line(0, "portability_1", [1, 9], hit_n=40)
    route = {"mark": 2, "probe": "portability_1", "kept": 0.1}
    (figures,) = mark_figures([*LINES, more], [route])
    assert figures["portability"] == {"portability_1": 50}
    assert figures["exact_match"]["portability_1"] == 100  # generated what the target says
    assert figures["hit_n_by_probe"]["portability_1"] == 40
    (without,) = mark_figures(LINES)
    for name in ("average", "hit_n_mean", "hit_n_max", "kept_min"):
        assert figures[name] == without[name]


def test_the_unedited_model_counts_each_probe_once():
    figures = unedited_figures(LINES + [x | {"mark": 5} for x in LINES])
    assert figures["edits"] == 0 and figures["cases"] == 2
    assert figures["reliability"] == 50  # [3, 2] against [1, 2]
    assert figures["image_locality"] == 100 and figures["exact_match"]["look_alike"] == 100
    assert figures["hit_n_mean"] == 0 and figures["hard_locality_n"]["look_alike"] == 1


def test_marks_keep_their_order():
    lines = [x | {"mark": mark} for mark in (1, 10, 100) for x in LINES]
    assert [figures["edits"] for figures in mark_figures(lines)] == [1, 10, 100]
