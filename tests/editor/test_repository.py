"""The repository against a plain-Python model of the same operations."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import repository as r
from liveedit_jax.evaluation.compiles import count_compiles
from liveedit_jax.types import Expert

CFG = EditorConfig(module_width=4, heads_n=2, rank=1, queries_n=1)
WIDTH = 3
ADD = jax.jit(r.add_edits)
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
    assert np.asarray(repo.down)[keep][:, 0, 0].tolist() == ids  # bodies stay with their ids
    return sorted(ids)


def test_random_operations_agree_with_a_plain_model():
    rng = random.Random(0)
    for _ in range(8):
        repo, history = r.init_repository(CFG, WIDTH, 40), [[]]  # history[t]: ids at clock t
        next_id = 1
        for _ in range(25):
            now = history[-1]
            kind = rng.choice(["add", "add", "delete", "undelete", "rollback"])
            if kind == "add" and int(repo.used_n) + 2 <= 40:
                repo, slots = add(repo, [next_id, next_id + 1])
                assert (np.asarray(slots) >= 0).all()
                history += [[*now, next_id], [*now, next_id, next_id + 1]]
                next_id += 2
            elif kind == "delete" and now:
                gone = rng.choice(now)
                repo = DELETE(repo, jnp.asarray([gone]))
                history.append([i for i in now if i != gone])
            elif kind == "undelete" and len(history) > 1:
                back = rng.choice(np.asarray(repo.edit_id)[: int(repo.used_n)].tolist() or [0])
                if back in now or not back:
                    continue
                # undeleting clears the death, so the edit also lives at the clocks in between
                repo = UNDELETE(repo, jnp.asarray([back]))
                first = next(t for t, ids in enumerate(history) if back in ids)
                history = [
                    ids if t < first or back in ids else sorted([*ids, back])
                    for t, ids in enumerate(history)
                ]
                history.append(sorted([*now, back]))
            elif kind == "rollback":
                clock = rng.randrange(len(history))
                repo = ROLLBACK(repo, jnp.asarray(clock))
                history = history[: clock + 1]
            assert int(repo.clock) == len(history) - 1
            assert live(repo) == sorted(history[-1])
            at = rng.randrange(len(history))
            assert live(repo, jnp.asarray(at)) == sorted(history[at])


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
    place = repo.down.unsafe_buffer_pointer()
    for i in range(3):
        repo, _ = run(repo, expert(i), jnp.asarray([i]), jnp.ones(1, bool))
        assert repo.down.unsafe_buffer_pointer() == place
