"""The protocol of an editor of the comparison."""

import jax
import numpy as np
import pytest

from liveedit_jax.baselines.ft_l import FtL
from liveedit_jax.evaluation.editors import edited, parts_of
from liveedit_jax.evaluation.probes import EDIT
from liveedit_jax.evaluation.trial import Trial

MARKS = (1, 2, 4)


@pytest.fixture(scope="module")
def lines_of(parts, cases_of):
    """A run's lines by its block size."""
    cases = cases_of(4)
    trial = Trial.of(parts.subject(cases, 4), FtL(steps_n=3, learning_rate=3e-2))

    def run(block_n):
        return [part for part in parts_of(trial, cases, MARKS, 4, block_n)]

    return run


def test_how_many_cases_are_asked_at_once_changes_nothing(lines_of):
    runs = [lines_of(block_n) for block_n in (1, 2, 8)]
    lines = [[line for part in run for line in part.lines] for run in runs]
    assert lines[0] == lines[1] == lines[2]
    assert [sum(line["mark"] == mark for line in lines[0]) for mark in MARKS] == [26] * 3
    assert [part.name for part in runs[1]] == [
        *("block_000001_000000", "block_000001_000002"),
        *("block_000002_000000", "block_000002_000002", "block_000004_000000"),
    ]
    assert all(run[0].costs["state_bytes"] > 0 for run in runs)


def test_progress_is_told_edit_by_edit(parts, cases_of):
    cases = cases_of(4)
    trial = Trial.of(parts.subject(cases, 4), FtL(steps_n=3, learning_rate=3e-2))
    told = []
    list(parts_of(trial, cases, MARKS, 4, 2, tick=told.append))
    assert sum(told) == 2 * 4 * len(MARKS)  # every case is edited and asked about
    assert told[:2] == [1, 1] and told[-6:] == [1, 1, 1, 1, 2, 2]


def test_costs_are_of_an_edit_that_was_not_made_yet(parts, cases_of):
    cases = cases_of(3)
    editor = FtL(steps_n=3, learning_rate=3e-2)
    trial = Trial.of(parts.subject(cases, 4), editor)
    requests = [case.probes[EDIT] for case in cases]
    before, after = edited(trial, requests, 3)
    alone = trial.edited(trial.init(3), requests[:2]).state
    jax.tree.map(np.testing.assert_array_equal, before, alone)
    jax.tree.map(np.testing.assert_array_equal, after, trial.edited(trial.init(3), requests).state)
    assert trial.costs(before, after, requests[-1], 3)["edit_ms"] > 0
    jax.tree.map(np.testing.assert_array_equal, before, alone)  # what is timed is a copy


def test_a_chunk_begins_with_the_unedited_model(lines_of):
    lines = [line for part in lines_of(8) for line in part.lines]
    alone, pairs, _ = ([line for line in lines if line["mark"] == mark] for mark in MARKS)
    first = [(a, b) for a, b in zip(alone, pairs, strict=True) if a["case"] == 0]
    assert any(a["after_ids"] != a["before_ids"] for a in alone)
    assert [a["before_ids"] for a in alone] == [b["before_ids"] for b in pairs]
    assert any(a["after_ids"] != b["after_ids"] for a, b in first)  # the second edit has come
