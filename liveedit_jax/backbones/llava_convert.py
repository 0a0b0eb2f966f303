"""Hugging Face LLaVA-1.5 weights and configs into ours; all three name layouts are accepted."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from liveedit_jax.backbones.clip_vision import used_layers_n
from liveedit_jax.backbones.convert import Rule, convert, transpose
from liveedit_jax.backbones.llava import Backbone
from liveedit_jax.config import DecoderConfig, LlavaConfig, VisionConfig

LM = r"(?:model\.language_model\.|language_model\.model\.)"
VISION = r"(?:model\.)?vision_tower\.(?:vision_model\.)?"
LAYER = r"layers\.(?P<layer>\d+)\."


def _patch(array: np.ndarray) -> np.ndarray:
    """A convolution [W, 3, p, p] as a matrix over patches flattened (row, column, channel)."""
    return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])


def rules(cfg: LlavaConfig) -> list[Rule]:
    """The conversion table of one config."""
    table = [
        Rule(VISION + r"embeddings\.class_embedding", "vision/cls"),
        Rule(VISION + r"embeddings\.patch_embedding\.weight", "vision/patch/kernel", _patch),
        Rule(VISION + r"embeddings\.position_embedding\.weight", "vision/position"),
        Rule(VISION + r"embeddings\.position_ids", None),
        Rule(VISION + r"post_layernorm\.(weight|bias)", None),  # after the layer that is read
        Rule(LM + r"embed_tokens\.weight", "embed"),
        Rule(LM + r"norm\.weight", "norm/scale"),
        Rule(r".*rotary_emb\.inv_freq", None),
    ]
    head = r"(?:language_model\.)?lm_head\.weight"
    table.append(Rule(head, None) if cfg.decoder.tied_head else Rule(head, "head", transpose))
    for theirs, ours in (("weight", "scale"), ("bias", "bias")):
        table.append(Rule(VISION + rf"pre_layrnorm\.{theirs}", f"vision/norm_pre/{ours}"))
    for i in (1, 2):
        name, path = rf"(?:model\.)?multi_modal_projector\.linear_{i}\.", f"projector/linear{i}/"
        table += [
            Rule(name + "weight", path + "kernel", transpose),
            Rule(name + "bias", path + "bias"),
        ]

    used = range(used_layers_n(cfg.vision))
    encoder = VISION + r"encoder\." + LAYER
    table.append(Rule(encoder + ".*", None, layers=range(len(used), cfg.vision.layers_n)))
    blocks = {f"self_attn\\.{n}_proj": n for n in "qkv"} | {"self_attn\\.out_proj": "o"}
    for theirs, ours in (blocks | {"mlp\\.fc1": "fc1", "mlp\\.fc2": "fc2"}).items():
        path = f"vision/layers/{ours}/"
        table.append(Rule(encoder + theirs + r"\.weight", path + "kernel", transpose, used))
        table.append(Rule(encoder + theirs + r"\.bias", path + "bias", layers=used))
    for i in (1, 2):
        for theirs, ours in (("weight", "scale"), ("bias", "bias")):
            path = f"vision/layers/norm{i}/{ours}"
            table.append(Rule(encoder + rf"layer_norm{i}\.{theirs}", path, layers=used))

    for stack, layers in (
        ("lower", range(cfg.edit_layer + 1)),
        ("upper", range(cfg.edit_layer + 1, cfg.decoder.layers_n)),
    ):
        for theirs, ours in (
            *((rf"self_attn\.{n}_proj", f"attention/{n}") for n in "qkvo"),
            *((rf"mlp\.{n}_proj", n) for n in ("gate", "up", "down")),
        ):
            name, path = LM + LAYER + theirs + r"\.weight", f"{stack}/{ours}/kernel"
            table.append(Rule(name, path, transpose, layers))
        for theirs, ours in (("input", "norm1"), ("post_attention", "norm2")):
            name, path = LM + LAYER + rf"{theirs}_layernorm\.weight", f"{stack}/{ours}/scale"
            table.append(Rule(name, path, layers=layers))
    return table


def from_hf(cfg: LlavaConfig, weights: Mapping[str, np.ndarray]) -> dict:
    """A state dict as our weights.

    Raises:
        ValueError: listing every unknown, doubled, missing, mis-shaped or non-finite name.
    """
    like = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    return convert(weights, rules(cfg), like)


def config_from_hf(config: Mapping, edit_layer: int) -> LlavaConfig:
    """Our config from a Hugging Face `LlavaConfig` as a dict."""
    vision, text = config["vision_config"], config["text_config"]
    heads_n = text["num_attention_heads"]
    return LlavaConfig(
        vision=VisionConfig(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            width=vision["hidden_size"],
            layers_n=vision["num_hidden_layers"],
            heads_n=vision["num_attention_heads"],
            mlp_width=vision["intermediate_size"],
            norm_eps=vision["layer_norm_eps"],
            feature_layer=config["vision_feature_layer"],
        ),
        decoder=DecoderConfig(
            vocab_n=text["vocab_size"],
            width=text["hidden_size"],
            layers_n=text["num_hidden_layers"],
            heads_n=heads_n,
            kv_heads_n=text.get("num_key_value_heads") or heads_n,
            head_width=text.get("head_dim") or text["hidden_size"] // heads_n,
            mlp_width=text["intermediate_size"],
            norm_eps=text["rms_norm_eps"],
            rope_base=(text.get("rope_parameters") or text).get("rope_theta", 10000.0),
            tied_head=bool(text.get("tie_word_embeddings", False)),
        ),
        edit_layer=edit_layer,
    )
