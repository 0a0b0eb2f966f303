"""Routing keys that are directions: what is the same has cosine 1, whatever is around it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import directions, liveedit, repository
from liveedit_jax.editor.attention import normalise, with_norm_stats
from liveedit_jax.editor.routing import hits, similarity
from liveedit_jax.types import Role

PAPER = EditorConfig(module_width=24, heads_n=4, rank=3, queries_n=2)
CFG = replace(PAPER, image_direction_n=8, text_direction_n=5)
WIDTH, VISION_N, B = 20, 6, 4
ROLES = [Role.PRE] + [Role.VISION] * VISION_N + [Role.PROMPT] * 3
ROLE = jnp.tile(jnp.asarray(ROLES, jnp.int8), (B, 1))


@pytest.fixture(scope="module")
def params():
    made = liveedit.init_params(jax.random.key(0), CFG, WIDTH, VISION_N)
    return made | {"text": made["text"] | {"bias": jnp.linspace(-0.3, 0.4, 5)}}


@pytest.fixture(scope="module")
def rows():
    hidden, words = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(SHAPES))
    return hidden, words


SHAPES = (B, len(ROLES), WIDTH), (B, WIDTH)


def encode(params, hidden, role, words, cfg=CFG):
    editor = liveedit.prepare(cfg, params)
    query = liveedit.encode_query(cfg, editor, hidden, role, words)
    return query, liveedit.generate_expert(cfg, editor, hidden, role, words)


def test_the_same_picture_and_prompt_have_cosine_1_and_a_text_score_of_slope_minus_offset(
    params, rows
):
    query, expert = encode(params, rows[0], ROLE, rows[1])
    image = similarity(CFG, query.vision, expert.vision_key)
    text = similarity(CFG, query.text, expert.text_key)
    np.testing.assert_allclose(jnp.diag(image), 1.0, atol=1e-6)
    assert (np.asarray(image)[~np.eye(B, dtype=bool)] < 0.99).all()
    slope, offset = params["text"]["slope"], params["text"]["offset"]
    np.testing.assert_allclose(jnp.diag(text), slope - offset, atol=1e-5)
    asked = directions.prompt_features(with_norm_stats(rows[0], CFG.norm_eps), ROLE, rows[1])
    unit = directions.direction(params["text"], asked)
    np.testing.assert_allclose(text, slope * unit @ unit.T - offset, atol=1e-5)


def test_a_picture_is_found_by_its_mean_normalised_state_and_the_constant(params, rows):
    query, expert = encode(params, rows[0], ROLE, rows[1])
    mean = normalise(rows[0][:, 1 : 1 + VISION_N], CFG.norm_eps).mean(1)[:, :8]
    mean = mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
    repo = repository.init_repository(CFG, WIDTH, B)
    assert repo.vision_key.value.shape == (B, 8) and repo.text_key.value.shape == (B, 6)
    repo, _ = repository.add_edits(repo, expert, jnp.arange(B), jnp.ones(B, bool))
    np.testing.assert_array_equal(hits(CFG, repo, query), mean @ mean.T > 0.9)
    assert np.isinf(encode(params, rows[0], ROLE.at[0].set(Role.PROMPT), rows[1])[0].threshold[0])


def test_bands_are_described_apart_and_then_the_whole_picture(rows):
    states = normalise(rows[0][:, 1 : 1 + VISION_N], CFG.norm_eps)  # 6 tokens, in bands of 2
    parts = [states[:, 2 * i : 2 * i + 2] for i in range(3)] + [states]
    want = jnp.concatenate([f(part, 1) for part in parts for f in (jnp.mean, jnp.std)], -1)
    got = features(rows, bands_n=3)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(features(rows), want[:, -2 * WIDTH :], atol=1e-5)


def test_bands_without_tokens_are_zeros_and_no_picture_is_all_zeros(rows):
    n, got = 2 * WIDTH, features(rows, bands_n=VISION_N + 1)
    filled = [bool(got[0, i * n : (i + 1) * n].any()) for i in range(VISION_N + 2)]
    assert sum(filled) == VISION_N + 1 and filled[-1]  # one band is empty, the whole is not
    assert not np.asarray(features(rows, role=jnp.full_like(ROLE, Role.PROMPT))).any()


def features(rows, bands_n=1, role=ROLE):
    cfg = replace(CFG, image_bands_n=bands_n)
    return directions.picture_features(cfg, with_norm_stats(rows[0], cfg.norm_eps), role)


def test_padding_and_answers_change_no_key(params, rows):
    def longer(x, value):
        return jnp.pad(x, ((0, 0), (0, 4), (0, 0))[: x.ndim], constant_values=value)

    role = longer(ROLE, Role.PAD)
    role = role.at[:, len(ROLES)].set(Role.ANSWER)
    want = encode(params, rows[0], ROLE, rows[1])
    got = encode(params, longer(rows[0], 9.0), role, rows[1])
    for a, b in zip(want, got, strict=True):
        for name in ("text", "vision", "text_key", "vision_key"):
            if hasattr(a, name):
                np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-4)


def test_either_key_can_be_the_papers(params, rows):
    paper = liveedit.init_params(jax.random.key(0), PAPER, WIDTH, VISION_N)
    theirs, stored = encode(paper, *rows[:1], ROLE, None, PAPER)
    ours = encode(params, rows[0], ROLE, rows[1])[0]
    half = replace(CFG, text_direction_n=None)
    mixed, expert = encode(paper | {"image": params["image"]}, rows[0], ROLE, None, half)
    np.testing.assert_array_equal(mixed.text, theirs.text)
    np.testing.assert_array_equal(expert.text_key, stored.text_key)
    np.testing.assert_array_equal(mixed.vision, ours.vision)
    half = replace(CFG, image_direction_n=None)
    mixed, expert = encode(paper | {"text": params["text"]}, rows[0], ROLE, rows[1], half)
    np.testing.assert_array_equal(mixed.text, ours.text)
    np.testing.assert_array_equal(mixed.threshold, theirs.threshold)
    np.testing.assert_array_equal(expert.vision_key, stored.vision_key)


def test_the_maps_are_fitted_apart_and_no_gradient_reaches_them(params, rows):
    def loss(params):
        query, expert = encode(params, rows[0], ROLE, rows[1])
        return similarity(CFG, query.text, expert.text_key).sum() + (expert.up**2).sum()

    grads = jax.grad(loss)(params)
    assert not any(
        leaf.any() for name in ("image", "text") for leaf in jax.tree.leaves(grads[name])
    )
    assert all(
        leaf.any() for leaf in (grads["up"]["query"], grads["up"]["attention"]["v"]["kernel"])
    )


def test_sizes_that_make_no_key_are_refused():
    with pytest.raises(ValueError, match="image_bands_n=0: 1 band"):
        replace(CFG, image_bands_n=0)
    with pytest.raises(ValueError, match="image_direction_n=1: a direction needs 2"):
        replace(CFG, image_direction_n=1)
