"""GRACE: the codebook's rules, and that nothing happens outside its radii."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from liveedit_jax.baselines import adapter
from liveedit_jax.baselines.grace import (
    PRIME,
    Codebook,
    Grace,
    allocate_entry,
    fingerprint,
    nearest_entries,
)
from liveedit_jax.editors import split_at_layer
from liveedit_jax.types import Batch


def empty(n: int, d: int) -> Codebook:
    vectors = jnp.zeros((n, d))
    none = jnp.zeros((), jnp.int32)
    return Codebook(vectors, vectors, jnp.zeros(n), jnp.zeros(n, jnp.uint32), none)


def test_keys_are_added_grown_and_split_as_by_hand():
    book = empty(4, 2)
    for step, (key, target, used_n, entry, radii) in enumerate(
        [
            ((0, 0), 5, 1, 0, (1, 0, 0)),
            ((3, 0), 7, 2, 1, (1, 1, 0)),  # further than both radii together
            ((0, 1.5), 5, 2, 0, (1.5, 1, 0)),  # the same target: the radius grows to it
            ((0, 1.2), 5, 2, 0, (1.5, 1, 0)),  # and covers this one
            ((0, -1.8), 9, 3, 2, (0.9, 1, 0.9)),  # another target: half the distance each
            ((3, 0), 8, 3, 1, (0.9, 1, 0.9)),  # the same question edited again
        ]
    ):
        key, value = jnp.asarray(key, jnp.float32), jnp.full(2, step + 1.0)
        book, found = allocate_entry(book, key, value, jnp.uint32(target), radius=1.0)
        assert (int(found), int(book.used_n)) == (entry, used_n)
        np.testing.assert_allclose(book.radius[:3], radii, rtol=1e-6)
    np.testing.assert_array_equal(book.target, [5, 8, 9, 0])
    np.testing.assert_array_equal(book.value[:3, 0], [1, 2, 5])  # entries edited again keep theirs
    np.testing.assert_allclose(book.key, [[0, 0], [3, 0], [0, -1.8], [0, 0]])
    distance, at = nearest_entries(book, jnp.asarray([[0.0, -1.0], [9.0, 8.0]]))
    np.testing.assert_allclose(distance, [0.8, 10.0], rtol=1e-6)
    np.testing.assert_array_equal(at, [2, 1])
    assert nearest_entries(empty(2, 2), jnp.zeros((1, 2)))[0][0] == jnp.inf


def test_no_split_makes_a_radius_larger():
    book = empty(3, 1)._replace(radius=jnp.asarray([0.2, 0, 0]), used_n=jnp.asarray(1))
    book, _ = allocate_entry(book, jnp.asarray([1.1]), jnp.zeros(1), jnp.uint32(1), radius=1.0)
    np.testing.assert_allclose(book.radius[:2], [0.2, 0.55])


def test_targets_are_told_apart_wherever_they_stand():
    role = jnp.asarray([[3, 4, 4, 0], [3, 3, 4, 4], [3, 4, 4, 0], [3, 4, 4, 4]])
    token = jnp.asarray([[1, 9, 10, 7], [1, 2, 9, 10], [1, 10, 9, 7], [1, 9, 10, 0]])
    found = fingerprint(Batch(token, role, None))
    assert int(found[0]) == int(found[1]) == (10 * PRIME + 11 * PRIME**2) % 2**32
    assert len(set(map(int, found))) == 3


def test_a_value_stands_in_exactly_within_its_radius(micro):
    editor = Grace(layer=0)
    backbone, weights = split_at_layer(micro.backbone, micro.params["backbone"], editor.layer)
    params = {"backbone": weights, "editor": None}
    features = backbone.vision_features(weights, micro.batch.image)
    known = jax.jit(partial(editor.encode, backbone, params))(micro.batch, features)
    key = adapter.query(backbone, weights, known, micro.batch)[0]
    book = editor.init(backbone, params, 3)
    for offset, want in ((0.495, known.output.at[:, 6:9].set(7.0)), (0.505, known.output)):
        one = book._replace(
            key=book.key.at[0].set(key.at[0].add(offset)),
            value=book.value.at[0].set(7.0),
            radius=book.radius.at[0].set(0.5),
            used_n=jnp.asarray(1),
        )
        added = editor.edited_output(backbone, weights, one, known, micro.batch)
        np.testing.assert_array_equal(added, want)
