"""Requests come to an editor that takes several at once."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import pytest

from liveedit_jax.editors import Editor
from liveedit_jax.evaluation.engine import make_edits


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


@pytest.fixture
def made(parts, cases_of):
    """(together, requests, block size) -> the state."""
    cases = cases_of(5)
    probes = [case.edit for case in cases]

    def make(together, chosen=slice(None), block_n=8):
        subject = replace(parts, editor=Counting(together), trained=None).subject(cases, 4)
        return make_edits(subject, probes[chosen], 5, block_n)[0]

    return make


@pytest.mark.parametrize("block_n", [1, 2, 8])
@pytest.mark.parametrize("together, rows", [(1, [1] * 5), (2, [2, 2, 1])])
def test_requests_come_in_order_and_missing_rows_are_padding(made, together, rows, block_n):
    state = made(together, block_n=block_n)
    assert int(state["calls_n"]) == len(rows)
    assert state["rows_n"][: len(rows)].tolist() == rows
    said = state["first"].reshape(-1)[:5]
    one_by_one = [made(1, slice(i, i + 1))["first"][0, 0] for i in range(5)]
    assert said.tolist() == [int(n) for n in one_by_one]


def test_a_batch_takes_up_room_whole(made):
    assert len(made(2)["first"]) == 6
