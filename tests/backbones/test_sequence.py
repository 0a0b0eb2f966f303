"""Positions and masks of rows of tokens, by themselves and through generation."""

import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbone_config import (
    BackboneConfig,
    ClipConfig,
    LayerKind,
    LlamaConfig,
    Reach,
    in_sections,
    interleaved,
)
from liveedit_jax.backbones import Backbone, decoder
from liveedit_jax.backbones.attention import rotary
from liveedit_jax.backbones.generation import generate
from liveedit_jax.backbones.sequence import attention_mask, next_mask, next_position, positions
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.types import Role

SEED = int(os.environ.get("LIVEEDIT_PARITY_SEED", "0"))
PRE, VISION, PROMPT, ANSWER = Role.PRE, Role.VISION, Role.PROMPT, Role.ANSWER
PLAIN = LlamaConfig(
    vocab_n=40, width=16, layers_n=4, heads_n=2, kv_heads_n=1, head_width=8, mlp_width=24
)
AXES = replace(PLAIN, rope_axes=in_sections((2, 1, 1)))


def rows(*roles, position=None):
    """Rows of these roles, right-padded, with random tokens."""
    t = max(map(len, roles))
    role = np.zeros((len(roles), t), np.int8)
    for b, row in enumerate(roles):
        role[b, : len(row)] = row
    token = np.random.default_rng(SEED).integers(3, 40, role.shape, np.int32)
    position = None if position is None else np.asarray(position, np.int32)
    return without_pixels(token, role).replace(position=position)


def test_positions_count_what_is_not_padding():
    batch = rows([PRE, VISION, PROMPT], [PROMPT])
    assert positions(PLAIN, batch).tolist() == [[0, 1, 2], [0, 0, 0]]
    assert next_position(PLAIN, batch).tolist() == [3, 1]
    given = batch.replace(position=np.asarray([[0, 5, 6], [2, 9, 9]]))
    assert positions(PLAIN, given).tolist() == [[0, 5, 6], [2, 9, 9]]
    assert next_position(PLAIN, given).tolist() == [7, 3]


def test_positions_of_three_axes_go_on_after_the_largest():
    batch = rows([PROMPT, PROMPT], [PROMPT])
    assert positions(AXES, batch)[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    grid = np.asarray([[[0, 0, 0], [1, 4, 2]], [[3, 3, 3], [9, 9, 9]]])
    assert next_position(AXES, batch.replace(position=grid)).tolist() == [[5] * 3, [4] * 3]


@pytest.mark.parity
@pytest.mark.parametrize("name", ["Qwen2_5_VL", "Qwen3_VL"])
def test_rotary_positions_of_three_axes_equal_the_originals(name):
    import torch
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as first
    from transformers.models.qwen3_vl import modeling_qwen3_vl as second

    sizes = (4, 3, 1)
    rope = {"rope_type": "default", "rope_theta": 5e4, "mrope_section": list(sizes)}
    text = dict(hidden_size=32, num_attention_heads=2, head_dim=16, rope_parameters=rope)
    if name == "Qwen2_5_VL":
        module = first.Qwen2_5_VLRotaryEmbedding(first.Qwen2_5_VLTextConfig(**text))
        axes = in_sections(sizes)
    else:
        module = second.Qwen3VLTextRotaryEmbedding(second.Qwen3VLTextConfig(**text))
        axes = interleaved(sizes)
    position = np.random.default_rng(SEED).integers(0, 90, (2, 7, 3))
    theirs = module(torch.zeros(1), torch.tensor(position.transpose(2, 0, 1)))
    for ours, want in zip(rotary(jnp.asarray(position), 16, 5e4, axes), theirs, strict=True):
        np.testing.assert_allclose(ours, want.numpy(), atol=1e-5)


@pytest.mark.parametrize("reach", list(Reach))
def test_a_token_attends_as_far_as_the_reach_says(reach):
    cfg = replace(PLAIN, reach=reach)
    row = [PRE, VISION, VISION, PRE, VISION, VISION, PROMPT, PROMPT, ANSWER, ANSWER]
    batch, image = rows(row, row[:-3]), [0, 1, 1, 0, 2, 2, 0, 0, 0, 0]
    (mask,) = np.asarray(attention_mask(cfg, batch))
    for b, n in enumerate((10, 7)):
        for query in range(n):
            for key in range(10):
                both_ways = {
                    Reach.CAUSAL: False,
                    Reach.PREFIX: max(query, key) < 8,
                    Reach.IMAGE: image[query] == image[key] != 0,
                }[reach]
                assert mask[b, query, key] == (key < n and (key <= query or both_ways))
    following = next_mask(cfg, 5, np.asarray([2, 4]), batch.role[:, :2])[0]
    assert following.tolist() == [[[1, 1, 1, 0, 0]], [[1] * 5]]


def test_packed_questions_do_not_attend_to_each_other():
    for reach in Reach:
        cfg = replace(PLAIN, reach=reach)
        batch = rows([PRE, VISION, PROMPT, ANSWER, PROMPT, ANSWER])
        batch = batch.replace(segment=np.asarray([[0, 0, 1, 1, 2, 2]]))
        mask = np.asarray(attention_mask(cfg, batch))[0, 0]
        assert not mask[4:, 2:4].any() and not mask[2:4, 4:].any() and mask[4:, :2].all()


def backbone_of(cfg) -> Backbone:
    vision = ClipConfig(image_size=4, patch_size=2, width=4, layers_n=2, heads_n=1, mlp_width=4)
    return Backbone(BackboneConfig(vision=vision, decoder=cfg, edit_layer=1))


def check_generation(cfg, batch, steps_n=3, key=0):
    """Generate with a cache, and compare with the most likely tokens without one."""
    backbone = backbone_of(cfg)
    weights = jax.jit(backbone.init)(jax.random.key(key))
    features = 3 * jax.random.normal(jax.random.key(SEED), (len(batch.role), 4, cfg.width))
    made = np.asarray(generate(backbone, weights, batch, steps_n, features=features))
    length = (batch.role != Role.PAD).sum(1)
    wide = [(0, 0), (0, steps_n)]
    token, role = np.pad(batch.token, wide), np.pad(batch.role, wide)
    following = np.asarray(next_position(cfg, batch))
    shape = [*wide, *[(0, 0)] * (following.ndim - 1)]
    position = np.pad(np.asarray(positions(cfg, batch)), shape)
    for b, n in enumerate(length):
        role[b, n : n + steps_n], token[b, n : n + steps_n] = ANSWER, made[b]
        for i in range(steps_n):
            position[b, n + i] = following[b] + i
    whole = without_pixels(token, role).replace(position=position)

    @jax.jit
    def run(features, batch):
        hidden = backbone.lower_from_features(weights, batch, features)
        return backbone.upper(weights, hidden, batch)

    best = np.asarray(run(features, whole).argmax(-1))
    for b, n in enumerate(length):
        want = best[b, n - 1 : n - 1 + steps_n]
        ended = np.cumsum(want == backbone.cfg.eos_id) - (want == backbone.cfg.eos_id) > 0
        np.testing.assert_array_equal(made[b], np.where(ended, backbone.cfg.pad_id, want))


def test_generation_goes_on_where_positions_with_gaps_end():
    row = [PRE, VISION, VISION, VISION, VISION, PROMPT, PROMPT]
    grid = np.asarray([0, 1, 2, 9, 11, 30, 31])
    grid = np.stack([grid, grid[::-1] % 7 + 3, grid % 5], -1)
    batch = rows(row, row[:-1], position=np.stack([grid, grid + 2]))
    check_generation(AXES, batch)


KINDS = replace(
    PLAIN,
    kinds=(
        LayerKind(rope_base=100.0, window=2),
        LayerKind(rope_base=1e4, rope_factor=8.0),
        LayerKind(rope_base=None, window=3),
    ),
    layer_kinds=(0, 1, 2, 0),
)


def test_a_window_ends_so_many_tokens_back():
    batch = rows([PRE, VISION, PROMPT, PROMPT, ANSWER], [PRE, PROMPT, ANSWER, PROMPT, ANSWER])
    batch = batch.replace(segment=np.asarray([[0] * 5, [0, 1, 1, 2, 2]]))
    mask = np.asarray(attention_mask(KINDS, batch)).astype(int)
    whole = np.tri(5, dtype=int)
    np.testing.assert_array_equal(mask[0, 0], whole - np.tri(5, k=-2))
    np.testing.assert_array_equal(mask[1, 0], whole)
    assert mask[:, 1, 4].tolist() == [[0, 0, 0, 1, 1], [1, 0, 0, 1, 1], [1, 0, 0, 1, 1]]
    following = np.asarray(next_mask(KINDS, 5, np.asarray([3]), batch.role[:1, :3]))[:, 0, 0]
    assert following.astype(int).tolist() == [[0, 0, 1, 1, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 0]]


@pytest.mark.parity
def test_masks_of_windows_and_images_equal_the_original():
    import torch
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3 import modeling_gemma3 as theirs

    text = Gemma3TextConfig(sliding_window=3, attn_implementation="eager")
    row = [PRE, VISION, VISION, VISION, VISION, PRE, VISION, VISION, PROMPT, PROMPT, ANSWER]
    batch = rows(row, row[:-2])
    made = theirs.create_masks_for_vision_model(
        text, torch.zeros(2, 11, 4), torch.tensor(batch.role != Role.PAD), None, None,
        theirs.get_block_sequence_ids_for_mask(torch.tensor(batch.role == VISION).long()),
    )  # fmt: skip
    kinds = (LayerKind(rope_base=1.0), LayerKind(rope_base=1.0, window=3))
    cfg = replace(PLAIN, reach=Reach.IMAGE, kinds=kinds, layer_kinds=(0, 1, 0, 1))
    real = batch.role != Role.PAD
    for ours, name in zip(
        np.asarray(attention_mask(cfg, batch)), ("full_attention", "sliding_attention"), strict=True
    ):
        np.testing.assert_array_equal(ours[real], (made[name][:, 0] == 0).numpy()[real])


def test_each_layer_has_the_attention_of_its_kind():
    """A scan over layers of several kinds equals layer by layer, each a decoder of one kind."""
    cfg, key = KINDS, jax.random.key(SEED)
    batch = rows([PRE, PROMPT, PROMPT, PROMPT, ANSWER, ANSWER])
    x = jax.random.normal(key, (1, 6, 16))
    stack, kinds = decoder.stack(cfg, 4, False, False), decoder.layer_kinds(cfg, 0, 4)
    context = decoder.context(cfg, positions(cfg, batch), attention_mask(cfg, batch))
    weights = stack.init(key, x, None, context, kinds)["params"]
    whole, _ = stack.apply({"params": weights}, x, None, context, kinds)
    for i, kind in enumerate(cfg.layer_kinds):
        alike = replace(cfg, kinds=(cfg.kinds[kind],), layer_kinds=(0,) * 4)
        own = jax.tree.map(lambda leaf, i=i: leaf[i], weights)
        context = decoder.context(alike, positions(cfg, batch), attention_mask(alike, batch))
        x, _ = decoder.layer(alike).apply({"params": own}, x, None, context)
    np.testing.assert_allclose(whole, x, atol=1e-5)


@pytest.mark.parametrize("given", [{"layer_kinds": (0, 0)}, {"layer_kinds": (0, 1, 2, 3)}])
def test_layers_without_a_kind_are_refused(given):
    with pytest.raises(ValueError, match="4 indices of 3 kinds"):
        replace(KINDS, **given)


@pytest.mark.parametrize("reach", [Reach.PREFIX, Reach.IMAGE])
def test_generation_equals_the_uncached_one_with_every_reach_and_kind(reach):
    row = [PRE, VISION, VISION, VISION, VISION, PROMPT, PROMPT]
    check_generation(replace(KINDS, reach=reach), rows(row, row[:-1]))
