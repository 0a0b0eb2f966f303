"""Conversion tables of parts that several models share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypedDict

import numpy as np

from liveedit_jax.backbone_config import (
    BackboneConfig,
    ClipConfig,
    EvaConfig,
    LlamaConfig,
    QFormerConfig,
    as_kind,
)
from liveedit_jax.backbones.clip_vision import used_layers_n
from liveedit_jax.backbones.convert import Rule, linear_rules, norm_rules, patch_kernel, transpose


class VitFields(TypedDict):
    """The fields that both of our ViT configs have, as a Hugging Face config gives them."""

    image_size: int
    patch_size: int
    width: int
    layers_n: int
    heads_n: int
    mlp_width: int
    norm_eps: float


LAYER = r"layers\.(?P<layer>\d+)\."


def vit_fields(vision: Mapping) -> VitFields:
    """Convert the fields of a Hugging Face vision config that both of our ViT configs have."""
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "width": vision["hidden_size"],
        "layers_n": vision["num_hidden_layers"],
        "heads_n": vision["num_attention_heads"],
        "mlp_width": vision["intermediate_size"],
        "norm_eps": vision["layer_norm_eps"],
    }


def decoder_stacks(cfg: BackboneConfig) -> Iterator[tuple[str, range]]:
    """Yield the names of the two stacks of decoder layers, each with its layers' numbers."""
    yield "lower", range(cfg.edit_layer + 1)
    yield "upper", range(cfg.edit_layer + 1, cfg.decoder.layers_n)


def _one_plus(array: np.ndarray) -> np.ndarray:
    return 1 + array.astype(np.float32)


LLAMA_NORMS = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
GEMMA_NORMS = {
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm1_after",
    "pre_feedforward_layernorm": "norm2",
    "post_feedforward_layernorm": "norm2_after",
}


def llama_rules(
    cfg: BackboneConfig,
    model: str,
    head: str,
    norms: Mapping[str, str] = LLAMA_NORMS,
    one_plus: bool = False,
) -> list[Rule]:
    """Build the table of a Hugging Face decoder of Llama's kind.

    Args:
        cfg: the backbone.
        model: the pattern of the decoder's prefix.
        head: that of the head's.
        norms: the names of a layer's norms in the checkpoint, and ours.
        one_plus: whether norms multiply by one plus what is stored (Gemma).
    """
    decoder, head = as_kind(cfg.decoder, LlamaConfig), rf"{head}weight"
    scale = _one_plus if one_plus else np.asarray
    table = [
        Rule(model + r"embed_tokens\.weight", "embed"),
        Rule(model + r"norm\.weight", "norm/scale", scale),
        Rule(model + r".*rotary_emb\.inv_freq", None),
        Rule(head, None) if decoder.tied_head else Rule(head, "head", transpose),
    ]
    biased = "qkv" * decoder.qkv_bias + "o" * decoder.out_bias
    for stack, layers in decoder_stacks(cfg):
        at = model + LAYER

        def kernel(theirs: str, ours: str, at=at, stack=stack, layers=layers) -> Rule:
            return Rule(at + rf"{theirs}\.weight", f"{stack}/{ours}/kernel", transpose, layers)

        table += [kernel(rf"self_attn\.{n}_proj", f"attention/{n}") for n in "qkvo"]
        table += [kernel(rf"mlp\.{n}_proj", n) for n in ("gate", "up", "down")]
        for n in biased:
            name, path = at + rf"self_attn\.{n}_proj\.bias", f"{stack}/attention/{n}/bias"
            table.append(Rule(name, path, layers=layers))
        inner = {f"self_attn.{n}_norm": f"attention/{n}_norm" for n in "qk" * decoder.qk_norm}
        for theirs, ours in (dict(norms) | inner).items():
            name, path = at + re.escape(theirs) + r"\.weight", f"{stack}/{ours}/scale"
            table.append(Rule(name, path, scale, layers))
    return table


def opt_rules(cfg: BackboneConfig, model: str, head: str) -> list[Rule]:
    """Build the table of a Hugging Face OPT decoder with a tied head."""
    table = [
        Rule(model + r"embed_tokens\.weight", "embed"),
        Rule(model + r"embed_positions\.weight", "position"),
        Rule(head + "weight", None),
        *norm_rules(model + r"final_layer_norm", "norm"),
    ]
    for stack, layers in decoder_stacks(cfg):
        at = model + LAYER
        for n in "qkv":
            table += linear_rules(at + rf"self_attn\.{n}_proj", f"{stack}/attention/{n}", layers)
        table += linear_rules(at + r"self_attn\.out_proj", f"{stack}/attention/o", layers)
        for name in ("fc1", "fc2"):
            table += linear_rules(at + name, f"{stack}/{name}", layers)
        table += norm_rules(at + r"self_attn_layer_norm", f"{stack}/norm1", layers)
        table += norm_rules(at + r"final_layer_norm", f"{stack}/norm2", layers)
    return table


def clip_rules(cfg: ClipConfig, tower: str) -> list[Rule]:
    """Build the table of a Hugging Face CLIP vision tower, up to the layer that is used."""
    used = range(used_layers_n(cfg))
    encoder = tower + r"encoder\." + LAYER
    table = [
        Rule(tower + r"embeddings\.class_embedding", "vision/cls"),
        Rule(tower + r"embeddings\.patch_embedding\.weight", "vision/patch/kernel", patch_kernel),
        Rule(tower + r"embeddings\.position_embedding\.weight", "vision/position"),
        Rule(tower + r"embeddings\.position_ids", None),
        Rule(tower + r"post_layernorm\.(weight|bias)", None),  # after the layer that is read
        *norm_rules(tower + r"pre_layrnorm", "vision/norm_pre"),
        Rule(encoder + ".*", None, layers=range(len(used), cfg.layers_n)),
    ]
    blocks = {f"self_attn\\.{n}_proj": n for n in "qkv"} | {"self_attn\\.out_proj": "o"}
    for theirs, ours in (blocks | {"mlp\\.fc1": "fc1", "mlp\\.fc2": "fc2"}).items():
        table += linear_rules(encoder + theirs, f"vision/layers/{ours}", used)
    for i in (1, 2):
        table += norm_rules(encoder + rf"layer_norm{i}", f"vision/layers/norm{i}", used)
    return table


def _third(i: int):
    def take(array: np.ndarray) -> np.ndarray:
        return np.split(array, 3)[i].T

    return take


def eva_rules(cfg: EvaConfig, names: dict[str, str], layer: str) -> list[Rule]:
    """Build the table of EVA's ViT-g, except for the biases of queries, keys and values.

    Checkpoints differ in how they store those biases, so the caller adds the rules.

    Args:
        cfg: the tower.
        names: the checkpoint's pattern of each part.
        layer: the checkpoint's pattern of a layer's prefix.
    """
    layers = range(cfg.layers_n)
    table = [
        Rule(names["cls"], "vision/cls", np.ravel),
        Rule(names["position"], "vision/position", lambda array: array[0]),
        Rule(names["patch"] + r"\.weight", "vision/patch/kernel", patch_kernel),
        Rule(names["patch"] + r"\.bias", "vision/patch/bias"),
        *norm_rules(names["norm_last"], "vision/norm_last"),
    ]
    for i, n in enumerate("qkv"):
        name, path = layer + names["qkv"] + r"\.weight", f"vision/layers/{n}/kernel"
        table.append(Rule(name, path, _third(i), layers, part=True))
    for ours in ("o", "fc1", "fc2"):
        table += linear_rules(layer + names[ours], f"vision/layers/{ours}", layers)
    for ours in ("norm1", "norm2"):
        table += norm_rules(layer + names[ours], f"vision/layers/{ours}", layers)
    return table


def qkv_bias_rules(cfg: EvaConfig, name: str) -> list[Rule]:
    """Build the rules of the biases of a fused query-key-value layer."""
    return [
        Rule(name, f"vision/layers/{n}/bias", _third(i), range(cfg.layers_n), part=True)
        for i, n in enumerate("qkv")
    ]


def qformer_rules(cfg: QFormerConfig, layer: str, names: dict[str, str]) -> list[Rule]:
    """Build the table of BLIP-2's Q-Former.

    Args:
        cfg: the Q-Former.
        layer: the pattern of a layer's prefix, with `{i}` for its number.
        names: under "inner", the checkpoint's name of the module with an attention's q, k and v.
    """
    table = []
    for i in range(cfg.layers_n):
        at, ours = layer.format(i=i), f"projector/layer{i}"
        kinds = {"attention": "attention"}
        if i % cfg.cross_every == 0:
            kinds["crossattention"] = "cross"
        for kind, path in kinds.items():
            for theirs, short in (("query", "q"), ("key", "k"), ("value", "v")):
                name = at + kind + rf"\.{names['inner']}\.{theirs}"
                table += linear_rules(name, f"{ours}/{path}/{short}")
            table += linear_rules(at + kind + r"\.output\.dense", f"{ours}/{path}/o")
            table += norm_rules(at + kind + r"\.output\.LayerNorm", f"{ours}/{path}/norm")
        table += linear_rules(at + r"intermediate_query\.dense", f"{ours}/fc1")
        table += linear_rules(at + r"output_query\.dense", f"{ours}/fc2")
        table += norm_rules(at + r"output_query\.LayerNorm", f"{ours}/norm")
    return table
