"""Chunks, and chunks as moments of one repository."""

import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor.as_editor import LiveEdit
from liveedit_jax.editor.repository import add_edits, alive, init_repository
from liveedit_jax.evaluation.chunks import check_marks, chunk_of, count_cases
from liveedit_jax.types import Expert


def test_whole_chunks_only_and_the_tail_is_dropped():
    assert [count_cases(n, 10) for n in (1, 3, 4, 10)] == [10, 9, 8, 10]
    assert count_cases(25, 10) == 25  # a mark larger than that counts one whole chunk
    assert chunk_of(np.arange(7), 3).tolist() == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("marks", [(), (0, 3), (3, 1), (2, 2), (11,)])
def test_bad_marks_are_refused(marks):
    with pytest.raises(ValueError):
        check_marks(marks, 10)


def test_a_query_at_its_chunk_sees_that_chunk_alone():
    cfg = EditorConfig(module_width=8, heads_n=2, rank=2, queries_n=2)
    repo = init_repository(cfg, 4, 8)
    keys, body = jnp.ones((7, 16)), jnp.ones((7, 2, 4))
    repo, _ = add_edits(repo, Expert(keys, keys, body, body), jnp.arange(7), jnp.ones(7, bool))
    seen = alive(LiveEdit(cfg).chunk(repo, 3), jnp.asarray([[0], [1], [2]]))
    rows = [np.flatnonzero(row).tolist() for row in np.asarray(seen)]
    assert rows == [[0, 1, 2], [3, 4, 5], [6]]
