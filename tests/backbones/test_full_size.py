"""The published models at full size, by shapes alone: parameter counts equal the originals'."""

import jax
import numpy as np
import pytest

from liveedit_jax.backbone_config import AnyresConfig
from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.backbones import Backbone
from liveedit_jax.data.images import square_layout
from liveedit_jax.data.layout import tokens_n

LLAMA_7B = dict(vocab_size=32064, hidden_size=4096, intermediate_size=11008,
                num_hidden_layers=32, num_attention_heads=32)  # fmt: skip
LLAMA_13B = dict(vocab_size=32064, hidden_size=5120, intermediate_size=13824,
                 num_hidden_layers=40, num_attention_heads=40)  # fmt: skip
CLIP_L = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
              num_attention_heads=16, image_size=336, patch_size=14)  # fmt: skip


def ours_n(name: str) -> int:
    shapes = jax.eval_shape(Backbone(BACKBONES[name]).init, jax.random.key(0))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def theirs_n(net) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("llava-1.5-7b", "Llava", LLAMA_7B),
        ("llava-1.5-13b", "Llava", LLAMA_13B),
        ("llava-next-7b", "LlavaNext", LLAMA_7B),
    ],
)
def test_llava(name, kind, text):
    import torch
    import transformers

    theirs = getattr(transformers, f"{kind}Config")(
        vision_config=transformers.CLIPVisionConfig(**CLIP_L).to_dict(),
        text_config=transformers.LlamaConfig(**text).to_dict(),
    )
    with torch.device("meta"):
        net = getattr(transformers, f"{kind}ForConditionalGeneration")(theirs)
    vision = net.model.vision_tower
    unused = theirs_n(vision.encoder.layers[-1]) + theirs_n(vision.post_layernorm)
    assert ours_n(name) == theirs_n(net) - unused
    grids = tuple((h // 336, w // 336) for h, w in getattr(theirs, "image_grid_pinpoints", ()))
    assert BACKBONES[name].tiles == (AnyresConfig(grids=grids) if grids else None)


@pytest.mark.parity
def test_blip2():
    import torch
    from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

    text = OPTConfig(vocab_size=50304, hidden_size=2560, num_hidden_layers=32, ffn_dim=10240,
                     num_attention_heads=32, word_embed_proj_dim=2560)  # fmt: skip
    with torch.device("meta"):
        net = Blip2ForConditionalGeneration(Blip2Config(text_config=text.to_dict()))
    assert ours_n("blip2-opt-2.7b") == theirs_n(net)


@pytest.mark.parity
def test_minigpt4():
    import torch
    from transformers import (
        Blip2QFormerConfig,
        Blip2QFormerModel,
        Blip2VisionConfig,
        Blip2VisionModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    with torch.device("meta"):
        vit, qformer = (
            Blip2VisionModel(Blip2VisionConfig()),
            Blip2QFormerModel(Blip2QFormerConfig()),
        )
        language = LlamaForCausalLM(LlamaConfig(**{**LLAMA_7B, "vocab_size": 32000}))
        projection = torch.nn.Linear(768, 4096)
    queries_n = 32 * 768
    want = sum(map(theirs_n, (vit, qformer, language, projection))) + queries_n
    # the key bias that Hugging Face's fused layer has is a leaf of ours too, filled with zeros
    assert ours_n("minigpt-4-vicuna-7b") == want


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"tiny"}))
def test_the_split_lowers_ahead_of_time(name):
    backbone = Backbone(BACKBONES[name])
    cfg = backbone.cfg
    params = jax.eval_shape(backbone.init, jax.random.key(0))
    tiled = cfg.tiles is not None
    t = tokens_n(square_layout(cfg)) + 40
    shape = jax.ShapeDtypeStruct
    from liveedit_jax.types import Batch

    batch = Batch(
        shape((2, t), np.int32),
        shape((2, t), np.int8),
        shape((2, *cfg.image_shape), np.float32),
        place=shape((2, t), np.int32) if tiled else None,
    )

    def logits(params, batch):
        return backbone.upper(params, backbone.lower(params, batch), batch)

    lowered = jax.jit(logits).lower(params, batch)
    assert lowered.out_info.shape == (2, t, cfg.decoder.vocab_n)
