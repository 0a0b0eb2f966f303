"""Gated cross-attention as a part of its own, in a decoder that lives in this file alone."""

from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from liveedit_jax.backbone_config import BackboneConfig, ClipConfig, LlamaConfig
from liveedit_jax.backbones import Backbone, decoder, llama, registry
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.backbones.family import Decoder, Family, Split
from liveedit_jax.backbones.generation import generate
from liveedit_jax.backbones.quantise import quantise
from liveedit_jax.backbones.sequence import (
    attention_mask,
    crossing,
    next_crossing,
    next_mask,
    positions,
)
from liveedit_jax.baselines.factors import gradient_factors
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.scaling.partition import backbone_shardings
from liveedit_jax.types import Role

PRE, VISION, PROMPT, ANSWER = Role.PRE, Role.VISION, Role.PROMPT, Role.ANSWER


@dataclass(frozen=True, kw_only=True)
class ReaderConfig(LlamaConfig):
    """A small Llama that reads images in front of every second layer."""

    vocab_n: int = 40
    width: int = 16
    layers_n: int = 5
    heads_n: int = 2
    kv_heads_n: int = 1
    head_width: int = 8
    mlp_width: int = 24
    cross_every: int = 2


class Reader(nn.Module):
    """Adds a linear map of the mean of the features that a token may read."""

    width: int

    @nn.compact
    def __call__(self, x, features, mask):
        n = jnp.maximum(mask.sum(-1, keepdims=True), 1)
        mean = jnp.einsum("bts,bsd->btd", mask.astype(x.dtype), features) / n
        return x + nn.Dense(self.width, use_bias=False, name="read")(mean)


READER = Decoder(
    config=ReaderConfig,
    layer=llama.LlamaLayer,
    norm=llama.norm,
    mlp=llama.mlp,
    mlp_parts=llama.MLP,
    splits={**llama.SPLITS, "read": Split.COLUMN},
    cross=lambda cfg: Reader(cfg.width),
)
FAMILY = Family(vision=registry.CLIP, bridge=registry.PROJECTOR, decoder=READER)
VISION_CFG = ClipConfig(image_size=4, patch_size=2, width=4, layers_n=2, heads_n=1, mlp_width=4)
CFG = BackboneConfig(vision=VISION_CFG, decoder=ReaderConfig(), edit_layer=2)
ROWS = [
    [PRE, PRE, *[VISION] * 4, PRE, PROMPT, PROMPT, PROMPT],
    [PRE, PROMPT, PROMPT],
    [PRE, *[VISION] * 4, PROMPT, PROMPT],
]


def rows(*roles):
    """Rows of these roles, right-padded, with random tokens."""
    role = np.zeros((len(roles), max(map(len, roles))), np.int8)
    for b, row in enumerate(roles):
        role[b, : len(row)] = row
    return without_pixels(np.random.default_rng(0).integers(3, 40, role.shape, np.int32), role)


@pytest.fixture(autouse=True, scope="module")
def listed():
    """The registry with one more entry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "FAMILIES", (*registry.FAMILIES, FAMILY))
        yield


@pytest.fixture(scope="module")
def weights(listed):
    return jax.jit(Backbone(CFG).init)(jax.random.key(0))


@partial(jax.jit, static_argnums=0)
def run(backbone, weights, batch, features):
    """The edit layer's states and the logits."""
    hidden = backbone.lower_from_features(weights, batch, features)
    return hidden, backbone.upper(weights, hidden, batch)


FEATURES = 2 * jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 16)), jnp.float32)


def test_only_cross_attention_sees_features():
    batch = rows([PRE, VISION, VISION, PRE, PROMPT, VISION, PRE, PROMPT, 0])
    cfg = CFG.decoder
    assert positions(cfg, batch).tolist() == [[0, 0, 0, 1, 2, 2, 3, 4, 4]]
    mask = np.asarray(attention_mask(cfg, batch))[0, 0, 7].astype(int)
    assert mask.tolist() == [1, 0, 0, 1, 1, 0, 1, 1, 0]
    seen = np.asarray(crossing(cfg, batch).mask)[0].astype(int)
    assert seen[0].sum() == 0
    assert seen[3].tolist() == seen[4].tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert seen[6].tolist() == seen[7].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]  # the last image
    following = next_crossing(cfg, batch, jnp.zeros((1, 9, 16)))
    np.testing.assert_array_equal(following.mask[0, 0], seen[7] == 1)
    cached = next_mask(cfg, 10, np.asarray([8]), batch.role)[0, 0, 0]
    assert cached.astype(int).tolist() == [1, 0, 0, 1, 1, 0, 1, 1, 1, 0]
    assert crossing(LlamaConfig(), batch) is None


def test_features_of_another_question_are_not_read():
    batch = rows([PRE, VISION, PROMPT, VISION, PROMPT])
    batch = batch.replace(segment=np.asarray([[0, 0, 1, 2, 2]]))
    seen = np.asarray(crossing(CFG.decoder, batch).mask)[0].astype(int)
    assert seen[2].tolist() == [0, 1, 0, 0, 0] and seen[4].tolist() == [0, 0, 0, 1, 0]


@jax.jit
def layer_by_layer(weights, batch, features):
    """The model's states after every layer, its parts applied one after another."""
    backbone, plain = Backbone(CFG), LlamaConfig(**{**vars(CFG.decoder), "cross_every": 0})
    x, seen = backbone.embed(weights, batch, features), crossing(CFG.decoder, batch).mask
    cfg = CFG.decoder
    context = decoder.context(plain, positions(cfg, batch), attention_mask(cfg, batch))
    halves = weights["lower"], weights["upper"]
    layers = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *halves)
    states, kept = [], (batch.role == VISION)[..., None]
    for i in range(cfg.layers_n):
        own, y = jax.tree.map(lambda leaf, i=i: leaf[i], layers), x
        if i % 2 == 0:
            read = jax.tree.map(lambda leaf, i=i: leaf[i // 2], weights["cross"])
            y = Reader(cfg.width).apply({"params": read}, y, x, seen)
        y = decoder.layer(plain).apply({"params": own}, y, None, context)[0]
        x = jnp.where(kept, x, y)
        states.append(x)
    return states


def test_every_split_reads_in_front_of_the_same_layers(weights):
    batch = rows(*ROWS)
    states = layer_by_layer(weights, batch, FEATURES)
    logits = None
    for edit_layer in (0, 1, 2, 4):
        backbone = Backbone(replace(CFG, edit_layer=edit_layer))
        cut = split_at(weights, edit_layer)
        hidden, found = run(backbone, cut, batch, FEATURES)
        np.testing.assert_allclose(hidden, states[edit_layer], atol=1e-5)
        logits = found if logits is None else logits
        np.testing.assert_allclose(found, logits, atol=1e-5)
    placed = np.asarray(hidden)[batch.role == VISION]
    np.testing.assert_array_equal(placed, np.asarray(FEATURES)[[0, 2]].reshape(-1, 16))
    other, _ = run(backbone, cut, batch, -FEATURES)
    moved = np.abs(np.asarray(other - hidden)).max(-1)
    assert (moved[1] == 0).all() and (moved[0, :2] == 0).all() and (moved[0, 6:] > 0.01).all()


class Shift:
    """Adds a plan's vector everywhere."""

    def __call__(self, plan, hidden, role):
        return hidden + plan[:, None]


def test_generation_with_caches_equals_generation_without(weights):
    backbone, batch = Backbone(CFG), rows(*ROWS)
    plan = jax.random.normal(jax.random.key(3), (3, 16))
    made = np.asarray(generate(backbone, weights, batch, 4, plan, Shift(), features=FEATURES))
    token, role = (np.pad(leaf, [(0, 0), (0, 4)]) for leaf in (batch.token, batch.role))
    for b, n in enumerate((batch.role != 0).sum(1)):
        token[b, n : n + 4], role[b, n : n + 4] = made[b], ANSWER
    whole = without_pixels(token, role)

    @jax.jit
    def shifted(weights, batch):
        hidden = backbone.lower_from_features(weights, batch, FEATURES)
        changed = backbone.keep_features(hidden, hidden + plan[:, None], batch.role)
        return backbone.upper(weights, changed, batch)

    best = np.asarray(shifted(weights, whole).argmax(-1))
    for b, n in enumerate((batch.role != 0).sum(1)):
        want = best[b, n - 1 : n + 3]
        ended = np.cumsum(want == CFG.eos_id) - (want == CFG.eos_id) > 0
        np.testing.assert_array_equal(made[b], np.where(ended, CFG.pad_id, want))
    plain = generate(backbone, weights, batch, 4, features=FEATURES)
    blind = generate(backbone, weights, batch, 4, features=0 * FEATURES)
    assert not np.array_equal(plain, made) and not np.array_equal(plain, blind)


def test_factors_of_gradients_run_the_same_layers(weights):
    batch = rows(*ROWS)
    batch.role[0, 8:] = ANSWER

    @jax.jit
    def factors(weights, batch):
        hidden = Backbone(CFG).lower_from_features(weights, batch, FEATURES)
        return gradient_factors(Backbone(CFG), weights, hidden, batch)

    silent = weights | {"upper": jax.tree.map(jnp.zeros_like, weights["upper"])}
    silent["upper"] |= {"norm2": weights["upper"]["norm2"]}
    read = factors(silent, batch)["gate"].read  # layers add nothing
    crossed = layer_by_layer(silent, batch, FEATURES)[4]
    norm = jax.tree.map(lambda leaf: leaf[1], weights["upper"]["norm2"])
    want = registry.apply_module(decoder.norm(CFG.decoder), norm, crossed)
    np.testing.assert_allclose(read[1][batch.role != VISION], want[batch.role != VISION], atol=1e-5)


def test_its_weights_are_placed_and_quantised(weights):
    mesh = AbstractMesh((1, 2, 2, 1), ("data", "fsdp", "tensor", "expert"))
    spec = backbone_shardings(mesh, CFG, weights)["cross"]["read"]["kernel"].spec
    assert tuple(spec) == (None, ("fsdp", "expert"), "tensor")
    with pytest.raises(ValueError, match="no partition table places the weights cross/alpha"):
        backbone_shardings(mesh, CFG, weights | {"cross": {"alpha": jnp.ones(3)}})
    small, batch = quantise(weights), rows(*ROWS)
    assert small["cross"]["read"]["kernel"].integer.dtype == jnp.int8
    exact, near = (run(Backbone(CFG), each, batch, FEATURES)[0] for each in (weights, small))
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


def test_a_decoder_without_the_part_is_refused():
    cfg = replace(CFG, decoder=LlamaConfig(cross_every=4))
    with pytest.raises(ValueError, match="cross_every=4: LlamaConfig has no such part"):
        jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
