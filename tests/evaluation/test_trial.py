"""How requests come to an editor that takes several at once."""

from dataclasses import dataclass

import jax.numpy as jnp
import pytest

from liveedit_jax.editors import Editor
from liveedit_jax.evaluation.trial import Trial


@dataclass(frozen=True)
class Counting(Editor):
    """Counts its calls, the rows of each, and what they say."""

    together: int
    layer: int | None = None

    def encode(self, backbone, params, batch, seen):
        return jnp.asarray(batch.token)

    def init(self, backbone, params, capacity):
        return {"calls_n": jnp.zeros((), jnp.int32), "rows_n": jnp.zeros(8, jnp.int32)} | {
            "first": jnp.zeros((capacity, self.together), jnp.int32)
        }

    def edit(self, backbone, params, state, known, batch):
        assert known.shape == batch.role.shape and len(known) == self.together
        n, present = state["calls_n"], (batch.role != 0).any(1)
        said = jnp.where(batch.role == 4, known, 0).sum(1)
        return {
            "calls_n": n + 1,
            "rows_n": state["rows_n"].at[n].set(present.sum()),
            "first": state["first"].at[n].set(said),
        }


@pytest.mark.parametrize("together, rows", [(1, [1] * 5), (2, [2, 2, 1])])
def test_requests_come_in_order_and_missing_rows_are_padding(parts, cases_of, together, rows):
    cases = cases_of(5)
    subject = parts.subject(cases, 4)
    trial = Trial.of(subject, Counting(together))
    probes = [case.probes["reliability"] for case in cases]
    state = trial.edited(trial.init(5), probes).state
    assert int(state["calls_n"]) == len(rows)
    assert state["rows_n"][: len(rows)].tolist() == rows
    said = state["first"].reshape(-1)[: len(cases)]
    alone = Trial.of(subject, Counting(1))
    one_by_one = [alone.edited(alone.init(1), [probe]).state["first"][0, 0] for probe in probes]
    assert said.tolist() == [int(n) for n in one_by_one]


def test_a_full_state_is_refused(parts, cases_of):
    cases = cases_of(5)
    trial = Trial.of(parts.subject(cases, 4), Counting(2))
    first, *rest = [case.probes["reliability"] for case in cases]
    one = trial.edited(trial.init(5), [first])
    assert (one.taken_n, one.capacity) == (2, 6)  # a batch is taken up whole
    assert trial.edited(one, rest).taken_n == 6
    one = trial.edited(trial.init(4), [first])
    with pytest.raises(ValueError, match="4 edits more, in batches of 2, are 6; .* room for 4"):
        trial.edited(one, rest)
    assert trial.edited(one, rest[:2]).taken_n == 4
