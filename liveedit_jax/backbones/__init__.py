"""Frozen vision-language models, split after the edit layer."""

from liveedit_jax.backbones.backbone import Backbone

__all__ = ["Backbone"]
