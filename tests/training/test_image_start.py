"""Image routing that starts from mean images: products stay, the threshold lets few through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import EditorConfig, EditorTrainConfig
from liveedit_jax.editor.attention import normalise
from liveedit_jax.editor.liveedit import init_params, prepare, routing_features, thresholds
from liveedit_jax.editor.routing import similarity
from liveedit_jax.training.image_start import (
    projection,
    sentinel_of,
    start_images,
    threshold_feature,
)
from liveedit_jax.types import Role

D, M, P = 16, 24, 5
CFG = EditorConfig(module_width=M, heads_n=2, rank=2, queries_n=3, vision_init_scale=2.0)


@pytest.fixture
def hidden():
    """Two rows (BOS, image, prompt) of 20 subjects whose images share a direction."""
    keys = jax.random.split(jax.random.key(0), 4)
    own = jnp.repeat(jax.random.normal(keys[0], (20, 1, D)), 2, axis=0)
    image = 2 * jax.random.normal(keys[1], (D,)) + own
    image = image + jax.random.normal(keys[2], (40, P, D))
    rest = jax.random.normal(keys[3], (40, 4, D))
    return jnp.concatenate([rest[:, :1], image, rest[:, 1:]], 1)


ROLE = jnp.tile(jnp.array([Role.PRE, *[Role.VISION] * P, *[Role.PROMPT] * 3], jnp.int8), (40, 1))


def started(hidden, share):
    images = normalise(hidden[:, 1 : 1 + P], CFG.norm_eps).mean(1)
    params = init_params(jax.random.key(1), CFG, D, P)
    return images, params, start_images(CFG, params, images, share)


def test_features_compare_as_mean_images_do_whatever_the_prompt(hidden):
    images, _, params = started(hidden, 0.1)
    editor = prepare(CFG, params)
    _, query, _ = routing_features(CFG, editor.input, hidden, ROLE)
    _, key, _ = routing_features(CFG, editor.edit, hidden[:, :], ROLE)
    want = CFG.vision_init_scale**2 * images @ images.T / M**0.5
    np.testing.assert_allclose(similarity(CFG, query, key), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_the_threshold_lets_the_share_of_wrong_pairs_through(hidden, share):
    _, _, params = started(hidden, share)
    editor = prepare(CFG, params)
    _, query, prompt = routing_features(CFG, editor.input, hidden, ROLE)
    _, key, _ = routing_features(CFG, editor.edit, hidden, ROLE)
    hit = similarity(CFG, query, key) > thresholds(CFG, editor.input, prompt, query)[:, None]
    subject = np.arange(40) // 2
    wrong = subject[:, None] != subject
    assert np.asarray(hit)[wrong].mean() == pytest.approx(share, abs=2 / wrong.sum())
    assert np.asarray(hit)[~wrong].mean() > np.asarray(hit)[wrong].mean()


def test_the_sentinel_is_made_of_tokens_that_a_norm_leaves_alone():
    mean = jax.random.normal(jax.random.key(2), (D,))
    mean = 0.6 * (mean - mean.mean())
    tokens = sentinel_of(mean, P)
    np.testing.assert_allclose(normalise(tokens, 1e-5), tokens, atol=1e-4)
    np.testing.assert_allclose(tokens.mean(0), mean, atol=1e-5)
    long = sentinel_of(10 * mean, P)  # longer than a token can be: as long as one
    np.testing.assert_allclose(normalise(long, 1e-5), long, atol=1e-3)


def test_a_narrow_projection_keeps_the_largest_directions():
    images = jnp.array([[5.0, 0, 0], [-5, 0, 0], [0, 0, 2], [0, 0, 2], [0, 0.1, 0]])
    kept = images @ projection(images, 2)
    np.testing.assert_allclose((kept @ kept.T)[:4, :4], (images @ images.T)[:4, :4], atol=1e-5)
    assert kept.shape == (5, 2)


def test_the_threshold_is_as_even_as_its_length_allows(hidden):
    images = normalise(hidden[:, 1 : 1 + P], CFG.norm_eps).mean(1)

    def unevenness(longest):
        level = images @ threshold_feature(images, 0.1, longest)
        return float(level.std() / level.mean())

    free, short = unevenness(1e9), unevenness(1e-9)
    assert free < 0.8 * short
    plain = images @ images.mean(0)
    assert short < float(plain.std() / plain.mean())


def test_what_reads_text_and_the_generators_stay(hidden):
    _, before, after = started(hidden, 0.1)
    for path, leaf in jax.tree_util.tree_leaves_with_path(before):
        name = jax.tree_util.keystr(path)
        if not any(part in name for part in ("vision_attention", "norm1", "sentinel")):
            assert leaf is after[path[0].key] or leaf is _at(after, path)
    leaves = jax.tree.leaves(after)
    assert len({id(leaf) for leaf in leaves}) == len(leaves)  # training donates them


def _at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


def test_a_start_needs_a_repository():
    with pytest.raises(ValueError, match="start_false_hits needs routing_repository_n"):
        EditorTrainConfig(start_false_hits=0.5)
