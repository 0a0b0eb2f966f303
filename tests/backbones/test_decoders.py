"""Decoders of Llama's kind equal their originals; each of their settings changes the result."""

import os
from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import pytest
from torch_parity import close, numpy_state

from liveedit_jax.backbone_config import (
    Activation,
    BackboneConfig,
    ClipConfig,
    LayerKind,
    LlamaConfig,
)
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.convert import convert
from liveedit_jax.backbones.tables import GEMMA_NORMS, llama_rules
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.types import Role

SEED = int(os.environ.get("LIVEEDIT_PARITY_SEED", "0"))
VISION = ClipConfig(image_size=4, patch_size=2, width=4, layers_n=2, heads_n=1, mlp_width=4)
SHARED = dict(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=4, head_dim=6,
    num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager", rms_norm_eps=1e-5,
    max_position_embeddings=64,
)  # fmt: skip
OURS = LlamaConfig(
    vocab_n=40, width=16, layers_n=4, heads_n=4, kv_heads_n=2, head_width=6, mlp_width=24
)
GEMMA = dict(
    attention_scale=5**-0.5,
    activation=Activation.GELU_TANH,
    norms_after=True,
    embed_scale=4.0,
    tied_head=True,
)
GEMMA_2 = replace(
    OURS,
    **GEMMA,
    kinds=(LayerKind(rope_base=1e4, window=3), LayerKind(rope_base=1e4)),
    layer_kinds=(0, 1, 0, 1),
    attention_cap=2.0,
    logit_cap=1.5,
)
GEMMA_3 = replace(
    OURS,
    **GEMMA,
    kinds=(
        LayerKind(rope_base=1e4, window=3),
        LayerKind(rope_base=1e6, rope_factor=8.0),
    ),
    layer_kinds=(0, 0, 1, 0),
    qk_norm=True,
)
GEMMA_3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
CASES = {
    "Llama": (replace(OURS, qkv_bias=True, out_bias=True), dict(attention_bias=True)),
    "Qwen2": (replace(OURS, qkv_bias=True), {}),
    "Qwen3": (replace(OURS, qk_norm=True), {}),
    "Gemma2": (
        GEMMA_2,
        dict(
            query_pre_attn_scalar=5,
            sliding_window=3,
            final_logit_softcapping=1.5,
            attn_logit_softcapping=2.0,
        ),
    ),
    "Gemma3": (
        GEMMA_3,
        dict(
            query_pre_attn_scalar=5,
            sliding_window=3,
            layer_types=[f"{kind}_attention" for kind in ("sliding", "sliding", "full", "sliding")],
            rope_parameters=GEMMA_3_ROPE,
        ),
    ),
}


def theirs(name: str, **given):
    """A small model of transformers with random weights."""
    import torch
    import transformers

    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    torch.manual_seed(SEED)
    net = getattr(transformers, f"{name}ForCausalLM")(config(**SHARED, **given))
    for p in net.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return net.eval()


def backbone(cfg: LlamaConfig) -> Backbone:
    return Backbone(BackboneConfig(vision=VISION, decoder=cfg, edit_layer=1))


@partial(jax.jit, static_argnums=0)
def states_and_logits(backbone: Backbone, weights: dict, batch):
    hidden = backbone.lower_from_features(weights, batch, None)
    return hidden, backbone.upper(weights, hidden, batch)


def run(cfg: LlamaConfig, name: str, state: dict, batch):
    """The edit layer's states and the logits of our decoder with their weights."""
    net, gemma = backbone(cfg), name.startswith("Gemma")
    more = {"norms": GEMMA_NORMS} if gemma else {}
    rules = llama_rules(net.cfg, r"model\.", r"lm_head\.", one_plus=gemma, **more)
    like = jax.eval_shape(net.init, jax.random.key(0))
    like = {part: like[part] for part in like if part not in ("vision", "projector")}
    weights = convert(state, rules, like)
    return states_and_logits(net, weights, batch)


@pytest.mark.parity
@pytest.mark.parametrize("name", list(CASES))
def test_the_decoder_equals_the_original(name):
    import torch

    cfg, given = CASES[name]
    net = theirs(name, **given)
    role = np.full((2, 9), Role.PROMPT, np.int8)
    role[1, 6:] = Role.PAD
    real = role != Role.PAD
    batch = without_pixels(np.random.default_rng(SEED).integers(3, 40, role.shape, np.int32), role)
    with torch.no_grad():
        want = net(
            input_ids=torch.tensor(batch.token).long(),
            attention_mask=torch.tensor(real.astype(np.int64)),
            output_hidden_states=True,
        )
    states, logits = run(cfg, name, numpy_state(net), batch)
    close(np.asarray(states)[real], want.hidden_states[2].numpy()[real], 1e-4)
    close(np.asarray(logits)[real], want.logits.numpy()[real], 1e-4)


MUTATIONS = [
    ("Gemma2", GEMMA_2, dict(attention_cap=None)),
    ("Gemma2", GEMMA_2, dict(logit_cap=None)),
    ("Gemma3", GEMMA_3, dict(attention_scale=None)),
    ("Gemma3", GEMMA_3, dict(embed_scale=1.0)),
    ("Gemma3", GEMMA_3, dict(activation=Activation.SILU)),
    ("Gemma3", GEMMA_3, dict(layer_kinds=(1, 0, 1, 0))),
    ("Gemma3", GEMMA_3, dict(kinds=(LayerKind(rope_base=1e4), GEMMA_3.kinds[1]))),
    ("Gemma3", GEMMA_3, dict(kinds=(GEMMA_3.kinds[0], LayerKind(rope_base=1e6)))),
]


def logits(cfg: LlamaConfig, weights: dict) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    batch = without_pixels(
        rng.integers(3, 40, (1, 9), np.int32), np.full((1, 9), Role.PROMPT, np.int8)
    )
    return np.asarray(states_and_logits(backbone(cfg), weights, batch)[1])


@cache
def weights_and_logits(cfg: LlamaConfig) -> tuple[dict, np.ndarray]:
    """Weights of our own, so that no original is needed, and what they say."""
    made = jax.jit(backbone(cfg).init)(jax.random.key(SEED))
    weights = jax.tree.map(lambda leaf: 2 * leaf, made)
    return weights, logits(cfg, weights)


@pytest.mark.parametrize(("name", "cfg", "change"), MUTATIONS)
def test_every_setting_changes_the_result(name, cfg, change):
    weights, right = weights_and_logits(cfg)
    wrong = logits(replace(cfg, **change), weights)
    assert np.abs(right - wrong).max() > 1e-3 * np.abs(right).max()
