"""MiniGPT-4: its four sources, composed in torch from the same parts."""

import jax
import numpy as np
import pytest
from torch_parity import channels_first, compare_model, numpy_state, rows, shaken, their_ids

from liveedit_jax.backbone_config import (
    BackboneConfig,
    EvaConfig,
    LlamaConfig,
    QFormerConfig,
    ResizeMode,
)
from liveedit_jax.backbones import Backbone, minigpt4_convert
from liveedit_jax.backbones import weights as checkpoint
from liveedit_jax.types import Role

CFG = BackboneConfig(
    vision=EvaConfig(
        image_size=12,
        patch_size=4,
        width=24,
        layers_n=2,
        heads_n=2,
        mlp_width=32,
        last_norm_eps=1e-5,
    ),
    bridge=QFormerConfig(queries_n=5, width=16, layers_n=3, heads_n=2, mlp_width=24),
    decoder=LlamaConfig(
        vocab_n=50,
        width=32,
        layers_n=4,
        heads_n=4,
        kv_heads_n=4,
        head_width=8,
        mlp_width=48,
        norm_eps=1e-6,
    ),
    edit_layer=1,
    fit=ResizeMode.SQUASH,
)
VIT_NAMES = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("encoder.layers", "blocks"),
    ("self_attn.qkv.weight", "attn.qkv.weight"),
    ("self_attn.projection", "attn.proj"),
    ("layer_norm", "norm"),
)


def renamed(name: str, pairs) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def their_parts():
    import torch
    from transformers import (
        Blip2QFormerConfig,
        Blip2QFormerModel,
        Blip2VisionConfig,
        Blip2VisionModel,
        LlamaForCausalLM,
    )
    from transformers import LlamaConfig as TheirLlama

    vit = Blip2VisionModel(
        Blip2VisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            image_size=12, patch_size=4,
        )
    )  # fmt: skip
    qformer = Blip2QFormerModel(
        Blip2QFormerConfig(
            vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=24, encoder_hidden_size=24,
        )
    )  # fmt: skip
    language = LlamaForCausalLM(
        TheirLlama(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, rms_norm_eps=1e-6,
        )
    )  # fmt: skip
    net = torch.nn.ModuleDict(
        {
            "vit": vit,
            "qformer": qformer,
            "language": language,
            "llama_proj": torch.nn.Linear(16, 32),
        }
    )
    net.query_tokens = torch.nn.Parameter(torch.randn(1, 5, 16))
    shaken(net)
    vit.post_layernorm.eps = 1e-5
    for layer in vit.encoder.layers:  # EVA has no key bias
        layer.self_attn.qkv.bias.data[24:48] = 0
    return net


def sources(net) -> dict[str, dict[str, np.ndarray]]:
    """The parts' weights as the four files name them."""
    vit, qformer = {}, {"query_tokens": net.query_tokens.detach().numpy()}
    for name, value in numpy_state(net["vit"]).items():
        if name.startswith("post_layernorm"):
            qformer[name.replace("post_layernorm", "ln_vision")] = value
        elif name.endswith("qkv.bias"):
            at = name.replace("encoder.layers", "blocks").removesuffix("self_attn.qkv.bias")
            vit[at + "attn.q_bias"], _, vit[at + "attn.v_bias"] = np.split(value, 3)
        else:
            vit[renamed(name, VIT_NAMES)] = value
    extra = {n.replace("blocks.0", "blocks.2"): v for n, v in vit.items() if "blocks.0" in n}
    for name, value in numpy_state(net["qformer"]).items():
        name = name.replace("attention.attention", "attention.self")
        name = name.replace("layernorm.", "embeddings.LayerNorm.")
        qformer["Qformer.bert." + name] = value
    qformer["Qformer.bert.embeddings.word_embeddings.weight"] = np.zeros((3, 16), np.float32)
    qformer["t5_proj.weight"] = np.zeros((3, 3), np.float32)
    projection = numpy_state(net["llama_proj"])
    return {
        "vit": vit | extra | {"norm.weight": np.zeros(24, np.float32)},
        "qformer": {"model." + name: value for name, value in qformer.items()},
        "projection": {f"model.llama_proj.{n}": v for n, v in projection.items()},
        "language": numpy_state(net["language"]),
    }


@pytest.fixture(scope="module")
def pair():
    net = their_parts()
    weights = checkpoint.convert_weights(CFG, minigpt4_convert.join(CFG, sources(net)))
    return net, Backbone(CFG), weights


@pytest.mark.parity
def test_the_model_equals_the_composition(pair):
    net, backbone, weights = pair
    batch = rows([Role.PRE, Role.PRE], 5, [6, 3], 50, (12, 12, 3))
    vision = net["vit"](pixel_values=channels_first(batch.image)).last_hidden_state
    query = net.query_tokens.expand(2, -1, -1)
    read = net["qformer"](query_embeds=query, encoder_hidden_states=vision).last_hidden_state
    ids, mask = their_ids(batch, 0)
    embeds = net["language"].model.embed_tokens(ids).clone()
    embeds[:, 2:7] = net["llama_proj"](read)
    out = net["language"](inputs_embeds=embeds, attention_mask=mask, output_hidden_states=True)
    compare_model(backbone, weights, batch, out.hidden_states[2], out.logits)


@pytest.mark.parity
def test_its_files_are_read_from_a_folder(pair, tmp_path):
    import torch

    net, backbone, weights = pair
    parts = sources(net)
    for part, name in minigpt4_convert.FILES.items():
        tensors = {n: torch.tensor(v) for n, v in parts[part].items()}
        if part != "vit":  # as published: under "model"
            tensors = {"model": {n.removeprefix("model."): v for n, v in tensors.items()}}
        torch.save(tensors, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="vicuna"):
        minigpt4_convert.sources(tmp_path)
    net["language"].save_pretrained(tmp_path / "vicuna")
    found = checkpoint.convert_weights(CFG, checkpoint.open_folder(CFG, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, found, weights)
    (tmp_path / "eva_vit_g.pth").unlink()
    with pytest.raises(FileNotFoundError, match="eva_vit_g.pth"):
        minigpt4_convert.sources(tmp_path)
