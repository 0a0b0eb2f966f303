"""Small Idefics models and rows for them, which the tests of its parts share."""

import json
import os

import numpy as np
from torch_parity import channels_first, numpy_state

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.idefics_convert import config_from_hf
from liveedit_jax.backbones.weights import convert_weights
from liveedit_jax.types import Batch, Role

SEED = int(os.environ.get("LIVEEDIT_PARITY_SEED", "0"))
PRE, VISION, PROMPT, ANSWER = Role.PRE, Role.VISION, Role.PROMPT, Role.ANSWER
LATENTS_N, SIDE = 5, 12
PICTURE = [*[VISION] * LATENTS_N, PRE, PROMPT]  # latents, <image>, <fake_token_around_image>
SMALL = {
    "model_type": "idefics",
    "vocab_size": 38,
    "additional_vocab_size": 2,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "cross_layer_interval": 4,
    "qk_layer_norms": True,
    "use_resampler": True,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "vision_config": {
        **{"embed_dim": 24, "intermediate_size": 28, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "image_size": SIDE, "patch_size": 4},
    },
    "perceiver_config": {
        **{"resampler_n_latents": LATENTS_N, "resampler_depth": 2, "resampler_n_heads": 3},
        **{"resampler_head_dim": 6, "qk_layer_norms_perceiver": True},
    },
}
PLAINER = SMALL | {  # the other values of its switches
    "qk_layer_norms": False,
    "alpha_type": "vector",
    "additional_vocab_size": 3,
    "tie_word_embeddings": True,
    "perceiver_config": SMALL["perceiver_config"] | {"qk_layer_norms_perceiver": False},
}


def original(config: dict, seed: int = SEED):
    """A small model of transformers with random weights and open gates."""
    import torch
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    torch.manual_seed(seed)
    net = IdeficsForVisionText2Text(IdeficsConfig(**config))
    for name, p in net.named_parameters():
        p.data += (0.2 if p.ndim < 2 else 0.1) * torch.randn_like(p)
        if "alpha" in name:
            p.data += 0.7
    return net.eval()


def converted(config: dict):
    net = original(config)
    cfg = config_from_hf(json.loads(net.config.to_json_string()))  # as it is saved
    return net, Backbone(cfg), convert_weights(cfg, numpy_state(net))


def batch_of(*roles, images_n=1, seed=SEED) -> Batch:
    """Rows of these roles, right-padded, with random tokens and pictures."""
    rng = np.random.default_rng(seed)
    role = np.zeros((len(roles), max(map(len, roles))), np.int8)
    for b, row in enumerate(roles):
        role[b, : len(row)] = row
    shape = (len(roles), *((images_n,) if images_n > 1 else ()), SIDE, SIDE, 3)
    token = rng.integers(3, 40, role.shape, np.int32)
    return Batch(token, role, rng.normal(size=shape).astype(np.float32))


SHOWN = [PRE, PRE, *PICTURE, *[PROMPT] * 4]
ASKED = [SHOWN, [PRE, *[PROMPT] * 9], [PRE, *PICTURE, PROMPT, PROMPT, ANSWER], SHOWN[:-2]]


def in_torch(batch: Batch) -> dict:
    """The original's inputs: rows without latents, and the picture that each token attends to."""
    import torch

    role, b, images_n = batch.role, len(batch.role), 1 if batch.image.ndim == 4 else 2
    is_text = (role != Role.PAD) & (role != VISION)
    t = int(is_text.sum(1).max())
    ids, mask, seen = np.zeros((b, t), int), np.zeros((b, t), int), np.zeros((b, t, images_n), int)
    for row in range(b):
        n, begun, last = 0, 0, None
        for token, kind in zip(batch.token[row], role[row], strict=True):
            if kind == VISION and last != VISION:
                begun += 1
            last = kind
            if kind in (Role.PAD, VISION):
                continue
            ids[row, n], mask[row, n] = token, 1
            if begun:
                seen[row, n, begun - 1] = 1
            n += 1
    pixels = channels_first(batch.image)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "pixel_values": pixels if images_n == 2 else pixels[:, None],
        "image_attention_mask": torch.tensor(seen),
    }
