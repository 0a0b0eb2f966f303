"""The repository against a plain-Python model of the same operations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveedit_jax.config import EditorConfig, Precision, StorageConfig
from liveedit_jax.editor import repository as r
from liveedit_jax.editor.rows import to_float32
from liveedit_jax.evaluation.compiles import count_compiles
from liveedit_jax.types import Expert

CFG = EditorConfig(module_width=4, heads_n=2, rank=1, queries_n=1)
WIDTH = 3
ADD = jax.jit(r.add_edits)
RECLAIM = jax.jit(r.reclaim)
GROW = partial(jax.jit, static_argnums=1)(r.grow)
DELETE, UNDELETE, ROLLBACK = jax.jit(r.delete_edits), jax.jit(r.undelete_edits), jax.jit(r.rollback)


def expert(*values):
    v = jnp.asarray(values, jnp.float32)
    return Expert(
        jnp.tile(v[:, None], (1, 4)),
        jnp.tile(v[:, None], (1, 4)),
        jnp.tile(v[:, None, None], (1, 1, WIDTH)),
        jnp.tile(v[:, None, None], (1, 1, WIDTH)),
    )


def add(repo, ids, valid=None):
    ids = jnp.asarray(ids, jnp.int32)
    return ADD(
        repo, expert(*np.asarray(ids)), ids, jnp.ones(len(ids), bool) if valid is None else valid
    )


def live(repo, at=None):
    keep = np.asarray(r.alive(repo, at))
    ids = np.asarray(repo.edit_id)[keep].tolist()
    bodies = np.asarray(to_float32(repo.down))[keep][:, 0, 0]
    if repo.down.step is None:
        assert bodies.tolist() == ids  # bodies stay with their ids
    else:  # 8 bits
        assert np.rint(bodies).tolist() == ids
        np.testing.assert_allclose(bodies, ids, rtol=1 / 127)
    return sorted(ids)


class Model:
    """The repository's promises as lists: `history[t]` are the ids alive at clock t."""

    def __init__(self, capacity):
        self.history, self.rows, self.capacity, self.next_id = [[]], [], capacity, 1

    @property
    def now(self):
        return self.history[-1]

    def add(self, ids):
        for i in ids:
            self.history.append([*self.now, i])
        self.rows += ids
        self.next_id += len(ids)

    def delete(self, ids):
        self.history.append([i for i in self.now if i not in ids])

    def undelete(self, ids):
        """Clears deaths, so that an edit also lives at the clocks in between."""
        for i in (i for i in ids if i in self.rows):
            first = next(t for t, alive in enumerate(self.history) if i in alive)
            self.history[first:] = [sorted({*alive, i}) for alive in self.history[first:]]
        self.history.append(self.now)

    def rollback(self, clock):
        self.history = self.history[: clock + 1]
        ever = {i for alive in self.history for i in alive}
        self.rows = [i for i in self.rows if i in ever]

    def reclaim(self):
        """Dead rows go, and with them their past."""
        self.rows = [i for i in self.rows if i in self.now]
        self.history = [[i for i in alive if i in self.rows] for alive in self.history]


STORAGES = st.sampled_from(
    [*(StorageConfig(keys=p, bodies=p) for p in Precision), StorageConfig(bodies_on_host=True)]
)
IDS = st.lists(st.integers(1, 30), min_size=2, max_size=2)
OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.lists(st.booleans(), min_size=3, max_size=3)),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.just("undelete"), IDS),
    st.tuples(st.just("rollback"), st.floats(0, 1)),
    st.tuples(st.just("reclaim"), st.none()),
    st.tuples(st.just("grow"), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATIONS, max_size=25), STORAGES, st.floats(0, 1))
def test_any_operations_agree_with_a_plain_model(operations, storage, moment):
    repo = r.init_repository(CFG, WIDTH, 8, storage)
    model = Model(8)
    for kind, what in operations:
        if kind == "add":
            ids = np.cumsum([model.next_id - 1, *what])[1:]
            fits = sum(what) <= model.capacity - len(model.rows)
            if not fits:  # nothing stored is lost; what did not fit is said
                with pytest.raises(ValueError, match="full"):
                    r.check_room(repo, sum(what))
                continue
            repo, slot = add(repo, ids, jnp.asarray(what))
            assert (np.asarray(slot) >= 0).tolist() == what
            model.add([int(i) for i, valid in zip(ids, what, strict=True) if valid])
        elif kind == "rollback":
            clock = round(what * (len(model.history) - 1))
            repo = ROLLBACK(repo, jnp.asarray(clock))
            model.rollback(clock)
        elif kind == "grow":
            model.capacity = min(2 * model.capacity, 32)
            repo = GROW(repo, model.capacity)
        elif kind == "reclaim":
            repo = RECLAIM(repo)
            model.reclaim()
        else:
            repo = {"delete": DELETE, "undelete": UNDELETE}[kind](repo, jnp.asarray(what))
            getattr(model, kind)(what)
        assert int(repo.clock) == len(model.history) - 1
        assert int(repo.used_n) == len(model.rows)
        assert live(repo) == sorted(model.now)
    at = round(moment * (len(model.history) - 1))
    assert live(repo, jnp.asarray(at)) == sorted(model.history[at])


def test_invalid_rows_are_not_written_and_the_clock_does_not_tick_for_them():
    repo, slot = add(r.init_repository(CFG, WIDTH, 4), [1, 2, 3], jnp.asarray([True, False, True]))
    assert np.asarray(slot).tolist() == [0, -1, 1] and live(repo) == [1, 3]
    assert int(repo.clock) == int(repo.used_n) == 2


def test_a_full_repository_drops_nothing_that_was_stored():
    repo, _ = add(r.init_repository(CFG, WIDTH, 2), [1, 2])
    with pytest.raises(ValueError, match="full: 2 of 2 rows are used and 1 more"):
        r.check_room(repo, 1)
    repo, slot = add(repo, [3])
    assert np.asarray(slot).tolist() == [-1] and live(repo) == [1, 2] and int(repo.clock) == 2


def test_reclaim_and_grow_keep_the_live_edits_in_order():
    repo, _ = add(r.init_repository(CFG, WIDTH, 4), [1, 2, 3, 4])
    repo = r.reclaim(DELETE(repo, jnp.asarray([1, 3])))
    assert int(repo.used_n) == 2 and np.asarray(repo.edit_id).tolist() == [2, 4, -1, -1]
    repo, slot = add(r.grow(repo, 8), [5])
    assert np.asarray(slot).tolist() == [2] and live(repo) == [2, 4, 5]
    with pytest.raises(ValueError, match="below the present 8"):
        r.grow(repo, 4)
    with pytest.raises(ValueError, match="at least one row"):
        r.init_repository(CFG, WIDTH, 0)


def test_adding_many_equals_adding_one_by_one_and_compiles_once():
    many, _ = add(r.init_repository(CFG, WIDTH, 8), [1, 2, 3])
    one, run = r.init_repository(CFG, WIDTH, 8), jax.jit(r.add_edits, donate_argnums=0)

    def put(repo, i):
        return run(repo, expert(i), jnp.asarray([i]), jnp.ones(1, bool))[0]

    one = put(one, 1)
    with count_compiles() as compiles:
        one = put(put(one, 2), 3)
    jax.tree.map(np.testing.assert_array_equal, many, one)
    assert compiles.n == 0


def test_a_donated_add_writes_in_place():
    repo = r.init_repository(CFG, WIDTH, 64)
    run = jax.jit(r.add_edits, donate_argnums=0)
    place = repo.down.value.unsafe_buffer_pointer()
    for i in range(3):
        repo, _ = run(repo, expert(i), jnp.asarray([i]), jnp.ones(1, bool))
        assert repo.down.value.unsafe_buffer_pointer() == place


def test_growing_from_a_thousand_to_a_million_compiles_each_function_ten_times():
    cfg = EditorConfig(module_width=1, heads_n=1, rank=1, queries_n=1)
    repo = r.init_repository(cfg, 1, 1024)
    run, grow = jax.jit(r.add_edits, donate_argnums=0), jax.jit(r.grow, static_argnums=1)
    one = Expert(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1)))
    valid, edit_id, capacity = jnp.ones(1, bool), jnp.zeros(1, jnp.int32), 1024
    repo = jax.block_until_ready(run(repo, one, edit_id, valid)[0])
    while capacity < 2**20:
        capacity *= 2
        with count_compiles() as compiles:
            repo = grow(repo, capacity)
            repo = run(repo, one, edit_id, valid)[0]
            repo = jax.block_until_ready(run(repo, one, edit_id, valid)[0])
        assert compiles.n == 2  # this capacity's grow and add, and never again
    assert int(repo.used_n) == 21
