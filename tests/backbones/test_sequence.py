"""Positions and masks of rows of tokens, by themselves and through generation."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbone_config import (
    BackboneConfig,
    ClipConfig,
    LlamaConfig,
    Reach,
    in_sections,
    interleaved,
)
from liveedit_jax.backbones import Backbone
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
AXES = LlamaConfig(**{**vars(PLAIN), "rope_axes": in_sections((2, 1, 1))})


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
    cfg = LlamaConfig(**{**vars(PLAIN), "reach": reach})
    row = [PRE, VISION, VISION, PRE, VISION, VISION, PROMPT, PROMPT, ANSWER, ANSWER]
    batch, image = rows(row, row[:-3]), [0, 1, 1, 0, 2, 2, 0, 0, 0, 0]
    mask = np.asarray(attention_mask(cfg, batch))
    for b, n in enumerate((10, 7)):
        for query in range(n):
            for key in range(10):
                both_ways = {
                    Reach.CAUSAL: False,
                    Reach.PREFIX: max(query, key) < 8,
                    Reach.IMAGE: image[query] == image[key] != 0,
                }[reach]
                assert mask[b, query, key] == (key < n and (key <= query or both_ways))
    assert next_mask(cfg, 5, np.asarray([2, 4])).tolist() == [[[1, 1, 1, 0, 0]], [[1] * 5]]


def test_packed_questions_do_not_attend_to_each_other():
    for reach in Reach:
        cfg = LlamaConfig(**{**vars(PLAIN), "reach": reach})
        batch = rows([PRE, VISION, PROMPT, ANSWER, PROMPT, ANSWER])
        batch = batch.replace(segment=np.asarray([[0, 0, 1, 1, 2, 2]]))
        mask = np.asarray(attention_mask(cfg, batch))[0]
        assert not mask[4:, 2:4].any() and not mask[2:4, 4:].any() and mask[4:, :2].all()


def backbone_of(decoder) -> Backbone:
    vision = ClipConfig(image_size=4, patch_size=2, width=4, layers_n=2, heads_n=1, mlp_width=4)
    return Backbone(BackboneConfig(vision=vision, decoder=decoder, edit_layer=1))


def check_generation(decoder, batch, steps_n=3, key=0):
    """Generate with a cache, and compare with the most likely tokens without one."""
    backbone = backbone_of(decoder)
    weights = jax.jit(backbone.init)(jax.random.key(key))
    features = 3 * jax.random.normal(jax.random.key(SEED), (len(batch.role), 4, decoder.width))
    made = np.asarray(generate(backbone, weights, batch, steps_n, features=features))
    length = (batch.role != Role.PAD).sum(1)
    wide = [(0, 0), (0, steps_n)]
    token, role = np.pad(batch.token, wide), np.pad(batch.role, wide)
    following = np.asarray(next_position(decoder, batch))
    shape = [*wide, *[(0, 0)] * (following.ndim - 1)]
    position = np.pad(np.asarray(positions(decoder, batch)), shape)
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


@pytest.mark.parametrize("reach", [Reach.PREFIX, Reach.IMAGE])
def test_generation_equals_the_uncached_one_with_every_reach(reach):
    row = [PRE, VISION, VISION, VISION, VISION, PROMPT, PROMPT]
    check_generation(LlamaConfig(**{**vars(PLAIN), "reach": reach}), rows(row, row[:-1]))
