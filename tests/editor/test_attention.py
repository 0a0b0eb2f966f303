"""The absorbed attention is the plain one; features and experts do not see padding."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import attention as att
from liveedit_jax.editor import extractor, liveedit
from liveedit_jax.editor.extractor import PROMPT_N
from liveedit_jax.types import Role

CFG = EditorConfig(module_width=24, heads_n=4, rank=3, queries_n=2, expert_scale=2.0)
WIDTH, VISION_N = 20, 5


@pytest.fixture(scope="module")
def params():
    fresh = liveedit.init_params(jax.random.key(0), CFG, WIDTH, VISION_N)
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def states(n=3, prompt_n=4, answer_n=2, pad_n=0, seed=2):
    role = [Role.PRE] + [Role.VISION] * VISION_N + [Role.PROMPT] * prompt_n
    role += [Role.ANSWER] * answer_n + [Role.PAD] * pad_n
    hidden = jax.random.normal(jax.random.key(seed), (n, len(role), WIDTH))
    return hidden, jnp.tile(jnp.asarray(role, jnp.int8), (n, 1))


@pytest.mark.parametrize("per_query", [False, True])
def test_absorbed_equals_plain(params, per_query):
    attention, norm = params["edit"]["vision_attention"], params["edit"]["norm1"]
    hidden, role = states()
    x = jax.random.normal(jax.random.key(5), (3, 2, 24) if per_query else (2, 24))
    mask = role == Role.VISION
    plain = att.attend(
        attention,
        x if per_query else jnp.tile(x, (3, 1, 1)),
        att.layer_norm(norm, hidden, CFG.norm_eps),
        mask,
        CFG.heads_n,
    )
    folded = att.attend_folded(
        att.fold_constant(attention, norm, x, CFG.heads_n),
        att.fold_value(attention, norm, CFG.heads_n),
        att.with_norm_stats(hidden, CFG.norm_eps),
        mask,
    )
    np.testing.assert_allclose(folded, plain, atol=1e-5)


def test_the_sentinel_is_a_picture_like_any_other(params):
    """sentinel(prompt) is vision(prompt, the sentinel's rows in place of the image)."""
    editor = liveedit.prepare(CFG, params)
    hidden, role = states()
    shown = hidden.at[:, 1 : 1 + VISION_N].set(params["input"]["sentinel"])
    query = liveedit.encode_query(CFG, editor, hidden, role)
    _, vision, _ = liveedit.routing_features(CFG, editor.input, shown, role)
    expected = (query.vision * vision).sum(-1) / (CFG.queries_n * CFG.module_width**0.5)
    np.testing.assert_allclose(query.threshold, expected, rtol=1e-6, atol=1e-7)


def test_padding_and_the_head_are_not_read(params):
    editor = liveedit.prepare(CFG, params)
    hidden, role = states()
    wide, wide_role = states(pad_n=3)
    wide = wide.at[:, : hidden.shape[1]].set(hidden).at[:, 0].add(9.0)  # PRE and PAD differ
    for make in (liveedit.generate_expert, liveedit.encode_query):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            make(CFG, editor, hidden, role),
            make(CFG, editor, wide, wide_role),
        )


@pytest.mark.parametrize("prompt_n", [5, PROMPT_N, PROMPT_N + 1])
def test_prompts_moved_together_are_read_as_they_were(params, prompt_n):
    """Rows so long that prompts are compacted, where they fit, against the plain attention."""
    hidden, role = states(prompt_n=prompt_n, pad_n=2 * PROMPT_N)
    role = role.at[1, 1 + VISION_N :].set(Role.PAD).at[1, -3:].set(Role.PROMPT)  # apart, and fewer
    mask, side = role == Role.PROMPT, params["edit"]
    text, prompt = jax.jit(extractor.prompt_features)(
        extractor.prepare(CFG, side), att.with_norm_stats(hidden, CFG.norm_eps), mask
    )
    parts = (("text", "norm2", text), ("prompt", "norm1", prompt))
    for name, norm, found in parts:
        plain = att.attend(
            side[f"{name}_attention"],
            jnp.tile(side["text_query" if name == "text" else "vision_query"], (3, 1, 1)),
            att.layer_norm(side[norm], hidden, CFG.norm_eps),
            mask,
            CFG.heads_n,
        )
        np.testing.assert_allclose(found, plain, atol=1e-5)


def test_routing_keys_do_not_see_the_answer_and_bodies_do(params):
    editor = liveedit.prepare(CFG, params)
    hidden, role = states()
    other = hidden.at[:, -2:, 0].add(1.0)
    a, b = (liveedit.generate_expert(CFG, editor, h, role) for h in (hidden, other))
    np.testing.assert_array_equal(a.text_key, b.text_key)
    np.testing.assert_array_equal(a.vision_key, b.vision_key)
    assert float(jnp.abs(a.down - b.down).max()) > 1e-3


@pytest.mark.parametrize("heads_n", [None, 1])
def test_experts_are_plain_attention_with_the_generators_own_heads(params, heads_n):
    """Equation 1: attend(phi, LN(h)) / (s sqrt(R)), with `generator_heads_n` heads."""
    cfg = replace(CFG, generator_heads_n=heads_n)
    hidden, role = states()
    expert = liveedit.generate_expert(cfg, liveedit.prepare(cfg, params), hidden, role)
    side = params["up"]
    plain = att.attend(
        side["attention"],
        jnp.tile(side["query"], (3, 1, 1)),
        att.layer_norm(side["norm"], hidden, cfg.norm_eps),
        role >= Role.VISION,
        heads_n or CFG.heads_n,
    )
    np.testing.assert_allclose(expert.up, plain / (2.0 * 3**0.5), atol=1e-5)


def test_head_counts_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="generator_heads_n=5"):
        replace(CFG, generator_heads_n=5)


def test_empty_parts_give_zeros_not_nan(params):
    editor = liveedit.prepare(CFG, params)
    hidden, role = states(prompt_n=0, answer_n=0)
    role = jnp.where(role == Role.VISION, Role.PAD, role)
    query = liveedit.encode_query(CFG, editor, hidden, role)
    assert not np.asarray(query.text).any() and np.isinf(np.asarray(query.threshold)).all()
    expert = liveedit.generate_expert(CFG, editor, hidden, role)
    assert not np.asarray(expert.down).any()


def test_released_names_round_trip_exactly(params):
    from liveedit_jax.editor.convert import from_released, to_released

    theirs = to_released(params)
    again = from_released(CFG, WIDTH, VISION_N, theirs)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    with pytest.raises(ValueError, match="unknown name extra"):
        from_released(CFG, WIDTH, VISION_N, theirs | {"extra": np.zeros(1)})
