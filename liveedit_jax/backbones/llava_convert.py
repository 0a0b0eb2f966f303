"""Conversion of Hugging Face LLaVA-1.5 and LLaVA-NeXT, in any of their three naming schemes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from liveedit_jax.backbone_config import (
    AnyresConfig,
    BackboneConfig,
    ClipConfig,
    LlamaConfig,
    RematPolicy,
    ResizeMode,
    as_kind,
)
from liveedit_jax.backbones.convert import Rule, linear_rules
from liveedit_jax.backbones.published import (
    CONFIG,
    check_numbers,
    paper_layer,
    part_of,
    read_llama,
    show,
    special_ids,
)
from liveedit_jax.backbones.published_config import (
    LLAVA_NEXT_GRIDS,
    LLAVA_VISION,
    refuse_published,
)
from liveedit_jax.backbones.tables import clip_rules, llama_rules, vit_fields

CLIP_ABSENT = {  # what an absent field of a tower's config is
    **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
    **{"num_attention_heads": 12, "image_size": 224, "patch_size": 32, "layer_norm_eps": 1e-5},
}
LM = r"(?:model\.language_model\.|language_model\.model\.)"
VISION = r"(?:model\.)?vision_tower\.(?:vision_model\.)?"


def rules(cfg: BackboneConfig) -> list[Rule]:
    """Build the conversion table of a config."""
    table = clip_rules(as_kind(cfg.vision, ClipConfig), VISION)
    table += llama_rules(cfg, LM, r"(?:language_model\.)?lm_head\.")
    for i in (1, 2):
        name = rf"(?:model\.)?multi_modal_projector\.linear_{i}"
        table += linear_rules(name, f"projector/linear{i}")
    if cfg.tiles is not None:
        table.append(Rule(r"(?:model\.)?image_newline", "newline"))
    return table


def read(files: Mapping[str, Any]) -> BackboneConfig:
    """Read the architecture from a checkpoint's JSON files (`published.read_files`).

    Raises:
        ValueError: a field that changes the result has a value that is not supported; names it.
    """
    config = files[CONFIG]
    named = config.get("vision_config") is not None
    vision = CLIP_ABSENT | (part_of(config, "vision_config") if named else LLAVA_VISION)
    check_numbers(vision, CLIP_ABSENT, "vision_config.")
    layer = config.get("vision_feature_layer", -2)
    if type(layer) is not int:
        raise ValueError(f"not supported: vision_feature_layer is {show(layer)}, not one number")
    text = {"model_type": "llama", **part_of(config, "text_config")}
    decoder = read_llama(text, "text_config.")
    tiles = None
    if config.get("model_type") == "llava_next":
        tiles = _read_grids(config.get("image_grid_pinpoints", LLAVA_NEXT_GRIDS), vision)
    cfg = BackboneConfig(
        vision=ClipConfig(**vit_fields(vision), feature_layer=layer),
        decoder=decoder,
        edit_layer=paper_layer(decoder.layers_n),
        **special_ids(files, text, bos=True),
        fit=ResizeMode.CROP,
        tiles=tiles,
        keep=RematPolicy.INPUTS,
    )
    refuse_published(cfg, files)
    return cfg


def _read_grids(pinpoints: Any, vision: Mapping) -> AnyresConfig:
    side = vision["image_size"]
    try:
        grids = tuple((height // side, width // side) for height, width in pinpoints)
        whole = bool(grids) and all(rows > 0 and columns > 0 for rows, columns in grids)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"image_grid_pinpoints is {show(pinpoints)}, not sizes of whole tiles")
    return AnyresConfig(grids=grids)


def llama_from_hf(text: Mapping) -> LlamaConfig:
    """Convert a Hugging Face `LlamaConfig`, given as a dict."""
    heads_n = text.get("num_attention_heads", 32)
    width = text.get("hidden_size", 4096)
    return LlamaConfig(
        vocab_n=text["vocab_size"],
        width=width,
        layers_n=text.get("num_hidden_layers", 32),
        heads_n=heads_n,
        kv_heads_n=text.get("num_key_value_heads") or heads_n,
        head_width=text.get("head_dim") or width // heads_n,
        mlp_width=text.get("intermediate_size", 11008),
        norm_eps=text.get("rms_norm_eps", 1e-6),
        rope_base=(text.get("rope_parameters") or text).get("rope_theta", 10000.0),
        tied_head=bool(text.get("tie_word_embeddings", False)),
    )


def config_from_hf(config: Mapping, edit_layer: int) -> BackboneConfig:
    """Convert a Hugging Face `LlavaConfig` or `LlavaNextConfig`, given as a dict."""
    vision = config["vision_config"]
    side = vision["image_size"]
    pinpoints = config.get("image_grid_pinpoints") or ()
    grids = tuple((height // side, width // side) for height, width in pinpoints)
    return BackboneConfig(
        vision=ClipConfig(
            **vit_fields(vision),
            feature_layer=config["vision_feature_layer"],
        ),
        decoder=llama_from_hf(config["text_config"]),
        edit_layer=edit_layer,
        fit=ResizeMode.CROP,
        tiles=AnyresConfig(grids=grids) if grids else None,
    )
