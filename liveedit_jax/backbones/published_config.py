"""A check of a checkpoint's config.json against a preset, field by field.

Weights of the same shapes compute something else under another norm, activation or RoPE, and
nothing about their names tells. So each field that changes a result is compared with the preset;
one that is absent has the default of the class that Hugging Face reads it with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from liveedit_jax.backbone_config import (
    AnyresConfig,
    BackboneConfig,
    ClipConfig,
    EvaConfig,
    LlamaConfig,
    OptConfig,
    QFormerConfig,
    ResizeMode,
)
from liveedit_jax.backbones.published import (
    CONFIG,
    PREPROCESSOR,
    Field,
    compare,
    llama_fields,
    read_rope,
    show,
)
from liveedit_jax.data.json_files import read_json

LLAVA_VISION = {  # LLaVA's tower where its config has none: CLIP ViT-L/14 at 336 pixels
    **{"image_size": 336, "patch_size": 14, "hidden_size": 1024, "num_hidden_layers": 24},
    **{"num_attention_heads": 16, "intermediate_size": 4096},
}
LLAVA_NEXT_GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]  # likewise


def clip_fields(cfg: ClipConfig) -> list[Field]:
    """List the fields of a CLIP vision tower."""
    return [
        Field("model_type", "clip_vision_model", "clip_vision_model"),
        Field("image_size", 224, cfg.image_size),
        Field("patch_size", 32, cfg.patch_size),
        Field("num_channels", 3, 3),
        Field("hidden_size", 768, cfg.width),
        Field("num_hidden_layers", 12, cfg.layers_n),
        Field("num_attention_heads", 12, cfg.heads_n),
        Field("intermediate_size", 3072, cfg.mlp_width),
        Field("layer_norm_eps", 1e-5, cfg.norm_eps),
        Field("hidden_act", "quick_gelu", "quick_gelu"),
    ]


def eva_fields(cfg: EvaConfig) -> list[Field]:
    """List the fields of BLIP-2's vision tower."""
    return [
        Field("model_type", "blip_2_vision_model", "blip_2_vision_model"),
        Field("image_size", 224, cfg.image_size),
        Field("patch_size", 14, cfg.patch_size),
        Field("num_channels", 3, 3),
        Field("hidden_size", 1408, cfg.width),
        Field("num_hidden_layers", 39, cfg.layers_n),
        Field("num_attention_heads", 16, cfg.heads_n),
        Field("intermediate_size", 6144, cfg.mlp_width),
        Field("layer_norm_eps", 1e-6, cfg.norm_eps),
        Field("layer_norm_eps", 1e-6, cfg.last_norm_eps),
        Field("hidden_act", "gelu", "gelu"),
        Field("qkv_bias", True, True),
    ]


def qformer_fields(cfg: QFormerConfig, vision_width: int) -> list[Field]:
    """List the fields of BLIP-2's Q-Former."""
    return [
        Field("hidden_size", 768, cfg.width),
        Field("num_hidden_layers", 12, cfg.layers_n),
        Field("num_attention_heads", 12, cfg.heads_n),
        Field("intermediate_size", 3072, cfg.mlp_width),
        Field("cross_attention_frequency", 2, cfg.cross_every),
        Field("encoder_hidden_size", 1408, vision_width),
        Field("layer_norm_eps", 1e-12, cfg.norm_eps),
        Field("hidden_act", "gelu", "gelu"),
        Field("position_embedding_type", "absolute", "absolute"),
    ]


def opt_fields(cfg: OptConfig) -> list[Field]:
    """List the fields of an OPT decoder."""
    return [
        Field("model_type", "opt", "opt"),
        Field("vocab_size", 50272, cfg.vocab_n),
        Field("hidden_size", 768, cfg.width),
        Field("word_embed_proj_dim", cfg.width, cfg.width),
        Field("num_hidden_layers", 12, cfg.layers_n),
        Field("num_attention_heads", 12, cfg.heads_n),
        Field("ffn_dim", 3072, cfg.mlp_width),
        Field("max_position_embeddings", 2048, cfg.positions_n),
        Field("activation_function", "relu", "relu"),
        Field("do_layer_norm_before", True, True),
        Field("_remove_final_layer_norm", False, False),
        Field("enable_bias", True, True),
        Field("layer_norm_elementwise_affine", True, True),
        Field("tie_word_embeddings", True, cfg.tied_head),
        Field("quantization_config", None, None),
    ]


def _differences(cfg: BackboneConfig, config: Mapping) -> list[str]:
    """List the fields of a whole model's config.json that are not the preset's."""
    if isinstance(cfg.vision, ClipConfig):
        side, tiles = cfg.vision.image_size, cfg.tiles
        top = [
            Field("model_type", None, "llava" if tiles is None else "llava_next"),
            Field("vision_feature_layer", -2, cfg.vision.feature_layer),
            Field("vision_feature_select_strategy", "default", "default"),
            Field("projector_hidden_act", "gelu", "gelu"),
            Field("multimodal_projector_bias", True, True),
            Field("quantization_config", None, None),
        ]
        if tiles is not None:
            assert isinstance(tiles, AnyresConfig)
            grids = [[rows * side, columns * side] for rows, columns in tiles.grids]
            top.append(Field("image_grid_pinpoints", LLAVA_NEXT_GRIDS, grids))
        vision = _part(config, "vision_config", LLAVA_VISION)
        found = [*compare(config, top)]
        found += compare(vision, clip_fields(cfg.vision), "vision_config.")
    else:
        assert isinstance(cfg.vision, EvaConfig) and isinstance(cfg.bridge, QFormerConfig)
        top = [
            Field("model_type", None, "blip-2"),
            Field("num_query_tokens", 32, cfg.bridge.queries_n),
            Field("quantization_config", None, None),
        ]
        found = [*compare(config, top)]
        vision = _part(config, "vision_config")
        found += compare(vision, eva_fields(cfg.vision), "vision_config.")
        bridge = qformer_fields(cfg.bridge, cfg.vision.width)
        found += compare(_part(config, "qformer_config"), bridge, "qformer_config.")
    return found + _text_differences(cfg, _part(config, "text_config"), "text_config.")


def _part(config: Mapping, name: str, absent: Mapping | None = None) -> Any:
    """Return a part of a config; where it is absent or null, what it is then."""
    found = config.get(name)
    return (absent or {}) if found is None else found


def _text_differences(cfg: BackboneConfig, text: Any, part: str) -> list[str]:
    if not isinstance(text, Mapping):
        return [*compare(text, (), part)]
    if isinstance(cfg.decoder, OptConfig):
        return [*compare(text, opt_fields(cfg.decoder), part)]
    assert isinstance(cfg.decoder, LlamaConfig)
    text = read_rope(text)
    return [*compare(text, llama_fields(cfg.decoder, text), part)]


def _processor_differences(cfg: BackboneConfig, config: Mapping) -> list[str]:
    """List what a processor's config does to pictures otherwise than the preset."""
    vision, fields = cfg.vision, []
    if cfg.fit is ResizeMode.CROP and cfg.tiles is None:
        fields = [Field("do_center_crop", True, True), Field("do_pad", False, False)]
    fields += [Field(f"do_{step}", True, True) for step in ("resize", "rescale", "normalize")]
    fields += [
        Field("rescale_factor", 1 / 255, 1 / 255),
        Field("resample", 3, 3),  # bicubic
    ]
    found = [*compare(config, fields)]
    for name in ("image_mean", "image_std"):
        numbers, wanted = config.get(name), getattr(vision, name)
        if numbers is not None and not (
            isinstance(numbers, list)
            and len(numbers) == len(wanted)
            and all(
                isinstance(n, int | float) and math.isclose(n, w, abs_tol=1e-4)
                for n, w in zip(numbers, wanted, strict=True)
            )
        ):
            found.append(f"{name} is {show(numbers)}, not {show(list(wanted))}")
    for name in ("size", "crop_size"):
        size = config.get(name)
        sides = list(size.values()) if isinstance(size, Mapping) else [size]
        if size is not None and any(side != vision.image_size for side in sides):
            found.append(f"{name} is {show(size)}, not {vision.image_size}")
    return found


def _refuse(file: Path, name: str, found: Sequence[str]) -> None:
    if found:
        raise ValueError(
            f"{file} is of another model than {name}: {'; '.join(found[:5])}"
            + (f" (and {len(found) - 5} more fields)" if len(found) > 5 else "")
        )


def refuse_published(cfg: BackboneConfig, files: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that differs from the config read from it: what no config can say.

    Raises:
        ValueError: a field that changes the result has a value that is not supported; names it.
    """
    found = _differences(cfg, files[CONFIG])
    found += _processor_differences(cfg, files.get(PREPROCESSOR, {}))
    if found:
        raise ValueError(f"not supported: {'; '.join(found[:5])}")


def check_published(cfg: BackboneConfig, name: str, folder: Path) -> None:
    """Compare a published model's config.json, and its processor's where there is one, with ours.

    Args:
        cfg: the backbone that its weights are to become.
        name: what an error calls that.
        folder: of the checkpoint.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: a file is no JSON object, or a field that changes the result differs; the
            message names it.
    """
    file = folder / CONFIG
    config = _read(file)
    _refuse(file, name, _differences(cfg, config))
    if (folder / PREPROCESSOR).is_file():
        processor = _read(folder / PREPROCESSOR)
        _refuse(folder / PREPROCESSOR, name, _processor_differences(cfg, processor))


def check_language(cfg: BackboneConfig, name: str, folder: Path) -> None:
    """Compare the config.json of a model's language part alone, such as Vicuna's, with ours.

    Raises:
        FileNotFoundError, ValueError: as `check_published`.
    """
    file = folder / CONFIG
    _refuse(file, name, _text_differences(cfg, _read(file), ""))


def _read(file: Path) -> Mapping:
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} lacks {file.name}, which says how its weights run")
    config = read_json(file)
    if not isinstance(config, Mapping):
        raise ValueError(f"{file} is no JSON object")
    return config
