"""Retention counts what the unedited model knew, after the first chunk of every mark."""

from dataclasses import replace

import pytest

from liveedit_jax.baselines.ft_l import FtL
from liveedit_jax.evaluation.engine import Engine, Schedule
from liveedit_jax.evaluation.probes import Case
from liveedit_jax.evaluation.retention import retention_case, retention_figures


def line(probe, before, after, mark=5):
    return {"mark": mark, "probe": probe, "target_ids": [1, 2]} | {
        "before_ids": before,
        "after_ids": after,
    }


def test_shares_are_of_what_was_right_before():
    right, wrong = [1, 2], [1, 3]
    lines = [
        line("image_locality", right, right),
        line("image_locality", right, wrong),
        line("image_locality", wrong, right),  # learned, not retained
        line("text_locality", right, right),
        line("text_locality", wrong, wrong, mark=7),
    ]
    found = retention_figures(lines)
    assert found[5] == {
        "retention": pytest.approx(200 / 3),
        "retention_with_picture": 50,
        "retention_without_picture": 100,
        "retention_n": 3,
    }
    assert found[7]["retention"] is None and found[7]["retention_n"] == 0


def test_questions_are_asked_in_the_state_of_a_marks_first_chunk(parts, cases_of, retention):
    cases, tuned = cases_of(4), FtL(steps_n=3, learning_rate=3e-2)
    subject = replace(parts, editor=tuned, trained=None).subject([*cases, retention], 4)
    found = {}
    for name, some in (("all", cases), ("first", cases[:2])):
        engine = Engine(subject, some, Schedule((1, 2), block_n=2), retention=retention)
        made = {part.name: part.lines for part in engine.parts()}
        found[name] = {k: v for k, v in made.items() if k.startswith("retention")}
    assert list(found["all"]) == ["retention_000001", "retention_000002"]
    assert found["all"] == found["first"]  # later chunks do not matter
    one, two = found["all"].values()
    assert [x["before_ids"] for x in one] == [x["before_ids"] for x in two]
    assert [x["after_ids"] for x in one] != [x["after_ids"] for x in two]
    assert all("generated" not in x for x in one)


def test_mojiedits_questions_make_a_case_without_an_edit():
    case = retention_case(60)
    assert isinstance(case, Case) and case.entity == ""
    assert len(case.probes_of("image_locality")) == len(case.probes_of("text_locality")) == 200
    assert all(probe.image is None for probe in case.probes_of("text_locality"))
