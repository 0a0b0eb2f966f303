"""The table of metrics, and metrics of one line."""

from collections import Counter
from dataclasses import replace

import pytest

from liveedit_jax.evaluation import aggregate, metrics
from liveedit_jax.evaluation.metrics import (
    AVERAGES,
    COLUMNS,
    METRICS,
    as_unedited,
    average_members,
    exact_match,
    figure_of,
    forced_accuracy,
    group_members,
    head,
    title,
    token_accuracy,
)

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


def test_every_metric_is_one_row_and_has_what_its_places_show():
    names = [metric.name for metric in METRICS]
    assert max(Counter(names).values()) == 1 and names[0] == metrics.EDIT
    for metric in METRICS:
        assert set(metric.averages) <= AVERAGES.keys() and metric.title and metric.question
        assert bool(metric.averages) <= bool(metric.head)
        assert not (metric.averages and metric.group)
    five, four = (average_members(name) for name in AVERAGES)
    assert COLUMNS == (*five, *AVERAGES) and len(five) == 5
    assert set(five) - set(four) == {"text_locality"}
    assert [head(name) for name in COLUMNS[-3:]] == ["M-Loc.", "Average", "Of four"]
    assert title("same_image") == "same image" and title("average") == "average"


def test_a_figure_is_read_from_where_its_metric_stands():
    entry = {"reliability": 1.0, "average": 2.0, "hard_locality": {"same_image": 3.0}}
    names = ("reliability", "average", "same_image", "look_alike", "portability_1")
    assert [figure_of(entry, name) for name in names] == [1.0, 2.0, 3.0, None, None]
    assert group_members("hard_locality") == ("same_image", "same_image_held_out", "look_alike")


def test_an_average_more_is_one_entry_and_a_word_in_its_rows(monkeypatch):
    monkeypatch.setitem(AVERAGES, "of_general", "General")
    rows = [
        replace(m, averages=(*m.averages, "of_general")) if "generality" in m.name else m
        for m in METRICS
    ]
    monkeypatch.setattr(metrics, "METRICS", tuple(rows))
    assert average_members("of_general") == ("text_generality", "image_generality")
    lines = [LINE | {"mark": 1, "case": 0, "probe": "text_generality"}]
    lines += [line | {"probe": "text_locality"} for line in lines]
    (figures,) = aggregate.mark_figures(lines)
    assert figures["of_general"] == figures["average_of_four"] == 100 and figures["average"] == 75


def test_token_accuracy_needs_equal_lengths_and_tokens():
    assert token_accuracy([1, 2, 3, 4], [1, 0, 3, 0]) == 0.5
    for bad in (([1], [1, 2]), ([], [])):
        with pytest.raises(ValueError):
            token_accuracy(*bad)


def test_edited_probes_compare_with_the_target():
    assert forced_accuracy(LINE) == 1 and exact_match(LINE) == 1
    assert forced_accuracy(as_unedited(LINE)) == 0.5 and exact_match(as_unedited(LINE)) == 0


@pytest.mark.parametrize("probe", ["text_locality", "image_locality", "same_image", "look_alike"])
def test_locality_compares_with_the_unedited_answer(probe):
    line = LINE | {"probe": probe}
    assert forced_accuracy(line) == 0.5 and exact_match(line) == 0
    assert forced_accuracy(as_unedited(line)) == 1 and exact_match(as_unedited(line)) == 1


def test_spaces_around_a_text_do_not_count():
    assert exact_match(LINE | {"generated": " blue moon ", "target": "blue moon"}) == 1
