"""Conversion of Hugging Face BLIP-2 with an OPT decoder."""

from __future__ import annotations

from collections.abc import Mapping

from liveedit_jax.backbone_config import (
    BackboneConfig,
    EvaConfig,
    OptConfig,
    QFormerConfig,
    ResizeMode,
    as_kind,
)
from liveedit_jax.backbones.convert import Rule, linear_rules, norm_rules
from liveedit_jax.backbones.tables import (
    eva_rules,
    opt_rules,
    qformer_rules,
    qkv_bias_rules,
    vit_fields,
)

VISION = r"vision_model\."
LAYER = VISION + r"encoder\.layers\.(?P<layer>\d+)\."
EVA = {
    "cls": VISION + r"embeddings\.class_embedding",
    "position": VISION + r"embeddings\.position_embedding",
    "patch": VISION + r"embeddings\.patch_embedding",
    "norm_last": VISION + r"post_layernorm",
    "qkv": r"self_attn\.qkv",
    "o": r"self_attn\.projection",
    "fc1": r"mlp\.fc1",
    "fc2": r"mlp\.fc2",
    "norm1": r"layer_norm1",
    "norm2": r"layer_norm2",
}


def rules(cfg: BackboneConfig) -> list[Rule]:
    """Build the conversion table of a config."""
    vision, bridge = as_kind(cfg.vision, EvaConfig), as_kind(cfg.bridge, QFormerConfig)
    return [
        *eva_rules(vision, EVA, LAYER),
        *qkv_bias_rules(vision, LAYER + r"self_attn\.qkv\.bias"),
        Rule("query_tokens", "projector/query", lambda array: array[0]),
        *norm_rules(r"qformer\.layernorm", "projector/norm"),
        *qformer_rules(bridge, r"qformer\.encoder\.layer\.{i}\.", {"inner": "attention"}),
        # the Q-Former's MLPs and embeddings for text, which its queries do not use
        Rule(r"qformer\.encoder\.layer\.\d+\.(?:intermediate|output)\..*", None),
        Rule(r"qformer\.embeddings\..*", None),
        *linear_rules("language_projection", "projector/linear"),
        *opt_rules(cfg, r"language_model\.model\.decoder\.", r"language_model\.lm_head\."),
    ]


def config_from_hf(config: Mapping, edit_layer: int) -> BackboneConfig:
    """Convert a Hugging Face `Blip2Config` with an OPT text config, given as a dict.

    Raises:
        ValueError: the decoder is not OPT, or has the layout of OPT-350M.
    """
    vision, bridge, text = (config[f"{part}_config"] for part in ("vision", "qformer", "text"))
    width = text.get("hidden_size", 2560)
    if text["model_type"] != "opt":
        raise ValueError(f"BLIP-2 with a {text['model_type']} decoder; only OPT is supported")
    if (
        not text.get("do_layer_norm_before", True)
        or text.get("word_embed_proj_dim", width) != width
    ):
        raise ValueError("OPT with norms after its parts or with projected embeddings")
    return BackboneConfig(
        vision=EvaConfig(
            **vit_fields(vision),
            last_norm_eps=vision["layer_norm_eps"],
        ),
        bridge=QFormerConfig(
            queries_n=config["num_query_tokens"],
            width=bridge["hidden_size"],
            layers_n=bridge["num_hidden_layers"],
            heads_n=bridge["num_attention_heads"],
            mlp_width=bridge["intermediate_size"],
            cross_every=bridge["cross_attention_frequency"],
            norm_eps=bridge["layer_norm_eps"],
        ),
        decoder=OptConfig(
            vocab_n=text["vocab_size"],
            width=width,
            layers_n=text["num_hidden_layers"],
            heads_n=text["num_attention_heads"],
            mlp_width=text["ffn_dim"],
            positions_n=text["max_position_embeddings"],
        ),
        edit_layer=edit_layer,
        bos_id=2,  # OPT begins with </s>
        eos_id=50118 if text["vocab_size"] > 50118 else 2,  # a newline ends BLIP-2's answers
        image_first=True,
        after_image="",
        fit=ResizeMode.SQUASH,
    )
