"""Refined experts: until the target is answered, and not a step further."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from liveedit_jax import editors
from liveedit_jax.backbone_config import BackboneConfig, ClipConfig, LlamaConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import liveedit
from liveedit_jax.editor.as_editor import LiveEdit
from liveedit_jax.editor.refine import experts_take, read_targets, refine_experts
from liveedit_jax.types import Batch

BACKBONE = Backbone(
    BackboneConfig(
        vision=ClipConfig(
            image_size=8, patch_size=4, width=16, layers_n=2, heads_n=2, mlp_width=16
        ),
        decoder=LlamaConfig(
            vocab_n=50, width=16, layers_n=3, heads_n=2, kv_heads_n=1, head_width=8, mlp_width=24
        ),
        edit_layer=1,
    )
)
SIZES = {"module_width": 8, "heads_n": 2, "rank": 32, "queries_n": 2, "expert_scale": 0.02}
CFG = EditorConfig(**SIZES, refine_n=100, refine_rate=0.3, refine_margin=1.0)
ROLE = np.asarray(
    [[1, 2, 2, 2, 2, 3, 3, 4, 4, 0], [1, 2, 2, 2, 2, 3, 4, 4, 4, 0], [0] * 10], np.int8
)  # two requests, and a row of padding

take = partial(jax.jit, static_argnums=(0, 1))(experts_take)
refine = partial(jax.jit, static_argnums=(0, 1))(refine_experts)


@pytest.fixture(scope="module")
def asked():
    """A random model and editor, requests, their states and their generated experts."""
    rng = np.random.default_rng(0)
    token = rng.integers(3, 50, ROLE.shape).astype(np.int32)
    batch = Batch(token, ROLE, rng.normal(size=(3, 8, 8, 3)).astype(np.float32))

    @jax.jit
    def make(batch):
        weights = BACKBONE.init(jax.random.key(0))
        weights |= {"head": 4 * weights["head"]}  # logits as large as a trained model's
        own = liveedit.init_params(jax.random.key(1), CFG, 16, BACKBONE.cfg.vision_n)
        editor, hidden = liveedit.prepare(CFG, own), BACKBONE.lower(weights, batch)
        plain = replace(CFG, refine_n=0)
        made = liveedit.experts_of_batch(plain, BACKBONE, weights, editor, batch, hidden)
        # a random generator's rows are all alike: at many positions none of them would be open
        down = jax.random.normal(jax.random.key(2), made.down.shape)
        return weights, editor, hidden, made.replace(down=down)

    weights, editor, hidden, made = make(batch)
    return weights, editor, batch, hidden, made


@partial(jax.jit, static_argnums=2)
def answer_ids(asked, expert, cfg):
    """The most likely tokens at the answer positions, each request with its expert at weight 1."""
    weights, editor, batch, hidden, _ = asked
    bodies = expert.down[:, None], expert.up[:, None]
    one = jax.numpy.ones((len(ROLE), 1))
    added = liveedit.mix(cfg, editor.norm, hidden, batch.role, one, *bodies)
    targets = read_targets(BACKBONE, batch)
    return BACKBONE.upper(weights, hidden + added, batch, targets.at).argmax(-1), targets.mask


def most_likely(asked, expert):
    ids, mask = map(np.asarray, answer_ids(asked, expert, CFG))
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)][:2]


def wanted(batch):
    eos = BACKBONE.cfg.eos_id
    return [[*batch.token[i][batch.role[i] == 4].tolist(), eos] for i in range(2)]


def test_what_did_not_take_takes_and_is_not_touched_again(asked):
    weights, editor, batch, hidden, made = asked
    fixed = CFG, BACKBONE, weights, editor.norm
    assert take(*fixed, made, hidden, batch).tolist() == [False, False, True]  # no target: it takes
    assert most_likely(asked, made)[0] != wanted(batch)[0]
    refined = refine(*fixed, made, hidden, batch)
    assert np.asarray(take(*fixed, refined, hidden, batch)).all()
    assert most_likely(asked, refined) == wanted(batch)
    for i in range(2):
        assert not np.array_equal(refined.up[i], made.up[i])
    np.testing.assert_array_equal(refined.up[2], made.up[2])
    for name in ("down", "text_key", "vision_key"):
        np.testing.assert_array_equal(getattr(refined, name), getattr(made, name))
    again = refine(*fixed, refined, hidden, batch)
    np.testing.assert_array_equal(again.up, refined.up)


def test_steps_end_and_none_is_none(asked):
    weights, editor, batch, hidden, made = asked
    fixed = BACKBONE, weights, editor.norm, made, hidden, batch
    assert refine_experts(replace(CFG, refine_n=0), *fixed) is made
    once = refine(replace(CFG, refine_n=1), *fixed)
    unit = np.sqrt(np.square(made.up[:2]).mean((1, 2), keepdims=True))
    step = np.abs(once.up - made.up)[:2] / (CFG.refine_rate * unit)
    assert step.max() == pytest.approx(1, rel=1e-3)  # Adam's first


def test_requests_together_are_refined_as_one_by_one(asked):
    weights, editor, batch, hidden, made = asked
    fixed = CFG, BACKBONE, weights, editor.norm
    together = refine(*fixed, made, hidden, batch)
    cut = batch.replace(token=batch.token[:, :9], role=batch.role[:, :9])  # and with less padding
    for i in range(2):
        rows = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], (made, hidden[:, :9], cut))
        np.testing.assert_allclose(refine(*fixed, *rows).up[0], together.up[i], rtol=1e-3)


def test_the_editor_of_tables_refines_by_its_config(asked):
    weights, prepared, batch, hidden, made = asked
    params = {"backbone": weights, "editor": prepared}
    seen = editors.encode_image(LiveEdit(CFG), BACKBONE, params, batch.image)
    off, on = (
        editors.request(LiveEdit(cfg), BACKBONE, params, batch, seen)
        for cfg in (replace(CFG, refine_n=0), replace(CFG, refine_n=3))
    )
    fixed = BACKBONE, weights, prepared.norm, off, hidden, batch
    np.testing.assert_array_equal(on.down, off.down)
    wanted = refine(replace(CFG, refine_n=3), *fixed).up
    np.testing.assert_allclose(on.up, wanted, rtol=1e-3, atol=1e-3)
    assert np.abs(on.up - off.up).max() > 1


def test_bad_settings_are_refused():
    for name, value in (
        ("refine_n", -1),
        ("refine_rate", 0.0),
        ("refine_margin", -0.1),
    ):
        with pytest.raises(ValueError, match=name):
            EditorConfig(**{name: value})
