"""The vision tower and the bridge of a config: this file alone tells their families apart."""

from __future__ import annotations

import flax.linen as nn

from liveedit_jax.backbone_config import (
    BackboneConfig,
    ClipConfig,
    EfficientNetConfig,
    EvaConfig,
    ProjectorConfig,
    QFormerConfig,
)
from liveedit_jax.backbones.clip_vision import ClipVision
from liveedit_jax.backbones.efficientnet import EfficientNet
from liveedit_jax.backbones.eva_vision import EvaVision
from liveedit_jax.backbones.placement import Placement
from liveedit_jax.backbones.projector import Projector
from liveedit_jax.backbones.qformer import QFormer

TOWERS = {ClipConfig: ClipVision, EvaConfig: EvaVision}


def tower(cfg: BackboneConfig, place: Placement | None = None) -> nn.Module:
    """Create the vision tower: pictures [B, S, S, 3] -> vision states [B, P', W]."""
    if isinstance(cfg.vision, EfficientNetConfig):  # small, hence replicated on every device
        return EfficientNet(cfg.vision)
    return TOWERS[type(cfg.vision)](cfg.vision, place)


def bridge(cfg: BackboneConfig) -> nn.Module:
    """Create the bridge: vision states [B, P', W] -> vision features [B, P, D]."""
    if isinstance(cfg.bridge, QFormerConfig):
        return QFormer(cfg.bridge, cfg.width)
    assert isinstance(cfg.bridge, ProjectorConfig)
    return Projector(cfg.width)
