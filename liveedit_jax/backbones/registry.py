"""The families of models, and the part that belongs to the class of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from liveedit_jax.backbone_config import (
    AnyresConfig,
    BackboneConfig,
    BridgeConfig,
    ClipConfig,
    DecoderConfig,
    EfficientNetConfig,
    EvaConfig,
    LlamaConfig,
    OptConfig,
    ProjectorConfig,
    QFormerConfig,
    TilesConfig,
    VisionConfig,
    as_kind,
)
from liveedit_jax.backbones import (
    blip2_convert,
    idefics,
    idefics3,
    idefics3_pictures,
    idefics_convert,
    llama,
    llava_convert,
    minigpt4_convert,
    opt,
)
from liveedit_jax.backbones.clip_vision import ClipVision
from liveedit_jax.backbones.efficientnet import EfficientNet
from liveedit_jax.backbones.eva_vision import EvaVision
from liveedit_jax.backbones.family import TRANSFORMER, Decoder, Family, Part, Split, Tiling
from liveedit_jax.backbones.placement import Placement
from liveedit_jax.backbones.projector import Projector
from liveedit_jax.backbones.published import CONFIG, show
from liveedit_jax.backbones.qformer import QFormer
from liveedit_jax.backbones.siglip_vision import SIGLIP
from liveedit_jax.data import tiling

VIT = {**TRANSFORMER, **dict.fromkeys(("cls", "patch", "position"), Split.WHOLE)}
CLIP = Part(
    config=ClipConfig,
    create=lambda cfg, place: ClipVision(as_kind(cfg.vision, ClipConfig), place),
    splits={**VIT, "norm_pre": Split.WHOLE},
)
EVA = Part(
    config=EvaConfig,
    create=lambda cfg, place: EvaVision(as_kind(cfg.vision, EvaConfig), place),
    splits={**VIT, "norm_last": Split.WHOLE},
)
EFFICIENTNET = Part(
    config=EfficientNetConfig,
    create=lambda cfg, place: EfficientNet(as_kind(cfg.vision, EfficientNetConfig)),
    splits={"vision": Split.WHOLE},
)
PROJECTOR = Part(
    config=ProjectorConfig,
    create=lambda cfg, place: Projector(cfg.width),
    splits={"linear1": Split.COLUMN, "linear2": Split.ROW},
)
QFORMER = Part(
    config=QFormerConfig,
    create=lambda cfg, place: QFormer(as_kind(cfg.bridge, QFormerConfig), cfg.width),
    splits={
        **TRANSFORMER,
        "linear": Split.COLUMN,
        "norm": Split.WHOLE,
        "query": Split.WHOLE,
    },
)
LLAMA = Decoder(
    config=LlamaConfig,
    layer=llama.LlamaLayer,
    norm=llama.norm,
    mlp=llama.mlp,
    mlp_parts=llama.MLP,
    splits=llama.SPLITS,
)
OPT = Decoder(
    config=OptConfig,
    layer=opt.OptLayer,
    norm=opt.norm,
    mlp=opt.mlp,
    mlp_parts=opt.MLP,
    splits=TRANSFORMER,
)
ANYRES = Tiling(config=AnyresConfig, cut=tiling.cut_anyres, layout=tiling.layout_anyres)

FAMILIES: tuple[Family, ...] = (
    Family(
        vision=CLIP,
        bridge=PROJECTOR,
        decoder=LLAMA,
        rules=llava_convert.rules,
        tiling=ANYRES,
        model_types=("llava", "llava_next"),
        read=llava_convert.read,
    ),
    Family(vision=EVA, bridge=QFORMER, decoder=OPT, rules=blip2_convert.rules),
    Family(
        vision=EVA,
        bridge=QFORMER,
        decoder=LLAMA,
        rules=minigpt4_convert.rules,
        open_folder=minigpt4_convert.open_folder,
    ),
    Family(
        vision=CLIP, bridge=idefics.RESAMPLER, decoder=idefics.DECODER, rules=idefics_convert.rules
    ),
    Family(
        vision=SIGLIP,
        bridge=idefics3.SHUFFLE,
        decoder=LLAMA,
        rules=idefics3.rules,
        tiling=idefics3_pictures.SPLIT,
        model_types=idefics3.MODEL_TYPES,
        read=idefics3.read,
    ),
    Family(vision=EFFICIENTNET, bridge=PROJECTOR, decoder=LLAMA),  # `smol`, of two packages
)


def find_part(cfg: VisionConfig | BridgeConfig) -> Part:
    """Find the tower or bridge of a config's class.

    Raises:
        ValueError: no family has it.
    """
    for family in FAMILIES:
        for part in (family.vision, family.bridge):
            if part.config is type(cfg):
                return part
    raise _unknown(cfg)


def find_decoder(cfg: DecoderConfig) -> Decoder:
    """Find the decoder of a config's class.

    Raises:
        ValueError: no family has it.
    """
    for family in FAMILIES:
        if family.decoder.config is type(cfg):
            return family.decoder
    raise _unknown(cfg)


def _unknown(cfg: object) -> ValueError:
    return ValueError(f"no family in backbones/registry.py has a part for {type(cfg).__name__}")


def find_tiling(cfg: TilesConfig) -> Tiling:
    """Find the way to cut pictures of a config's class.

    Raises:
        ValueError: no family has it.
    """
    for family in FAMILIES:
        if family.tiling is not None and family.tiling.config is type(cfg):
            return family.tiling
    raise ValueError(f"no family in backbones/registry.py cuts tiles by {type(cfg).__name__}")


def find_family(cfg: BackboneConfig) -> Family:
    """Find the family that combines a config's three parts.

    Raises:
        ValueError: there is none.
    """
    parts = [type(part) for part in (cfg.vision, cfg.bridge, cfg.decoder)]
    for family in FAMILIES:
        if parts == [family.vision.config, family.bridge.config, family.decoder.config]:
            return family
    names = ", ".join(part.__name__ for part in parts)
    raise ValueError(f"no family in backbones/registry.py combines {names}")


def read_architecture(files: Mapping[str, Any]) -> BackboneConfig:
    """Read the architecture that a checkpoint's JSON files (`published.read_files`) describe.

    Raises:
        ValueError: no family reads its model_type, or a field that changes the result has a value
            that is not supported; the message names it.
    """
    found = files[CONFIG].get("model_type")
    known = {name: family.read for family in FAMILIES for name in family.model_types}
    read = known.get(found) if isinstance(found, str) else None
    if read is None:
        raise ValueError(
            f"{CONFIG} has the model_type {show(found)}; an architecture is read from those of "
            f"{', '.join(sorted(known))}"
        )
    return read(files)


def apply_module(module: nn.Module, weights: Any, *args: Any) -> Any:
    """Apply a Flax module to its weights; returns what its `__call__` does."""
    return module.apply({"params": weights}, *args)


def tower(cfg: BackboneConfig, place: Placement | None = None) -> nn.Module:
    """Create the vision tower: pictures [B, S, S, 3] -> vision states [B, P', W]."""
    return find_part(cfg.vision).create(cfg, place)


def bridge(cfg: BackboneConfig, place: Placement | None = None) -> nn.Module:
    """Create the bridge: vision states [B, P', W] -> vision features [B, P, D]."""
    return find_part(cfg.bridge).create(cfg, place)
