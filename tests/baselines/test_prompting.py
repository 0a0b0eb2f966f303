"""Pools, the memory of edits, and rows that have something put in."""

import jax
import jax.numpy as jnp
import numpy as np

from liveedit_jax.baselines import prompting
from liveedit_jax.baselines.trained import Lesson, LessonRows
from liveedit_jax.types import Batch, Role


def rows(token, role) -> Batch:
    role = np.asarray(role, np.int8)
    return Batch(np.asarray(token, np.int32), role, np.zeros((len(role), 1, 1, 3), np.float32))


# BOS, two vision tokens, a question, an answer; and a row without a picture
TWO = rows(
    [[1, 90, 91, 7, 8, 9, 0], [1, 5, 6, 4, 0, 0, 0]],
    [[1, 2, 2, 3, 3, 4, 0], [1, 3, 3, 4, 0, 0, 0]],
)
TEXT = np.asarray([[21, 22, 0], [31, 0, 0]], np.int32)
TEXT_ROLE = np.asarray([[3, 3, 0], [3, 0, 0]], np.int8)


def test_text_goes_between_image_and_question_and_padding_to_the_end():
    longer, at = prompting.insert_tokens(TWO, TEXT, TEXT_ROLE)
    np.testing.assert_array_equal(
        np.where(longer.role == 0, 0, longer.token),
        [[1, 90, 91, 21, 22, 7, 8, 9, 0, 0], [1, 31, 5, 6, 4, 0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(
        longer.role, [[1, 2, 2, 3, 3, 3, 3, 4, 0, 0], [1, 3, 3, 3, 4, 0, 0, 0, 0, 0]]
    )
    assert longer.role.dtype == np.int8 and longer.token.dtype == np.int32
    np.testing.assert_array_equal(at[0, :6], [0, 1, 2, 5, 6, 7])
    np.testing.assert_array_equal(at[1, :4], [0, 2, 3, 4])
    _, some = prompting.insert_tokens(TWO, TEXT, TEXT_ROLE, np.asarray([[4, 5], [2, 3]]))
    np.testing.assert_array_equal(some, [[6, 7], [3, 4]])


def test_several_texts_close_up_and_no_text_changes_nothing():
    token, role = np.tile(TEXT, (1, 2)), np.tile(TEXT_ROLE, (1, 2))
    longer, _ = prompting.insert_tokens(TWO, token, role)
    np.testing.assert_array_equal(longer.token[0, 3:7], [21, 22, 21, 22])
    same, at = prompting.insert_tokens(TWO, TEXT, np.zeros_like(TEXT_ROLE))
    np.testing.assert_array_equal(same.role[:, :7], TWO.role)
    np.testing.assert_array_equal(np.where(same.role == 0, 0, same.token)[:, :7], TWO.token)
    assert not np.asarray(same.role[:, 7:]).any()
    np.testing.assert_array_equal(at[0, :6], range(6))


def test_places_of_tiles_move_along():
    tiles = TWO.replace(place=np.asarray([[0, 3, 1, 0, 0, 0, 0], [0] * 7], np.int32))
    longer, _ = prompting.insert_tokens(tiles, TEXT, TEXT_ROLE)
    np.testing.assert_array_equal(longer.place[0], [0, 3, 1, 0, 0, 0, 0, 0, 0, 0])


def test_pools_by_hand():
    x = np.asarray([[[1.0, -3.0], [3.0, 5.0], [9.0, 9.0]]])
    found = prompting.mean_max_min(x, np.asarray([[True, True, False]]))
    np.testing.assert_allclose(found, [[2, 1, 3, 5, 1, -3]])
    empty = prompting.mean_max_min(x, np.zeros((1, 3), bool))
    np.testing.assert_array_equal(empty, np.zeros((1, 6)))
    parts = prompting.pool_states(
        x, np.asarray([[2, 3, 3]]), (Role.VISION, Role.ANSWER, Role.PROMPT)
    )
    # normalised states are (1, -1), (-1, 1) and (0, 0)
    want = [[1, -1] * 3 + [0] * 6 + [-0.5, 0.5, 0, 1, -1, 0]]
    np.testing.assert_allclose(parts, want, atol=1e-5)


def test_the_memory_is_searched_as_far_as_it_is_filled():
    memory = {"key": jnp.zeros((2, 2)), "note": jnp.zeros(2, int), "used_n": jnp.zeros((), int)}
    query = np.asarray([[1.0, 2.0]])
    assert np.isneginf(prompting.nearest_rows(memory, query, 1)[0]).all()
    memory = prompting.append_row(memory, key=jnp.asarray([[-1.0, 0.0]]), note=jnp.asarray([5]))
    best, slot = prompting.nearest_rows(memory, query, 5)
    np.testing.assert_array_equal(best, [[-1, -np.inf]])  # and not the empty row's 0
    assert int(slot[0, 0]) == 0
    memory = prompting.append_row(memory, key=jnp.asarray([[0.0, 1.0]]), note=jnp.asarray([6]))
    full = prompting.append_row(memory, key=jnp.asarray([[9.0, 9.0]]), note=jnp.asarray([7]))
    best, slot = prompting.nearest_rows(full, query, 2)
    np.testing.assert_array_equal(best, [[2, -1]])
    np.testing.assert_array_equal(full["note"][slot[0]], [6, 5])


def test_blends_take_the_same_share_of_the_same_sample_in_all_rows():
    one = LessonRows(
        rows([[1, 0, 3]] * 3, [[1, 2, 3]] * 3), np.asarray([1.0, 10, 100])[:, None, None]
    )
    blank = one._replace(seen=np.zeros((3, 1, 1)))
    mixed = prompting.mix_pictures(jax.random.key(0), Lesson(one, one, one, one, blank), 0.5)
    np.testing.assert_array_equal(mixed.edit.seen, mixed.image_locality.seen)
    np.testing.assert_array_equal(mixed.text_locality.seen, blank.seen)
    found = np.asarray(mixed.edit.seen)[:, 0, 0]
    assert (found >= [1, 5.5, 50.5]).all() and (found != [1, 10, 100]).any()
    same = prompting.mix_pictures(jax.random.key(0), Lesson(one, one, one, one, blank), 0.0)
    np.testing.assert_array_equal(same.edit.seen, one.seen)


def test_samples_are_asked_their_kinds_in_turn():
    n, kinds = 5, 3
    token = np.arange(kinds * n).reshape(kinds, n, 1)
    asked = [
        LessonRows(rows(own, np.full_like(own, Role.PROMPT)), own[..., None].astype(np.float32))
        for own in token
    ]
    found = prompting.round_robin(asked)
    want = [0, n + 1, 2 * n + 2, 3, n + 4]
    np.testing.assert_array_equal(found.batch.token[:, 0], want)
    np.testing.assert_array_equal(found.seen[:, 0, 0], want)
