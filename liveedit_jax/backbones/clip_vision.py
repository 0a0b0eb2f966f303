"""The CLIP vision tower (ViT, pre-norm), up to the hidden state that is used."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from liveedit_jax.backbone_config import ClipConfig
from liveedit_jax.backbones.activations import ACTIVATIONS
from liveedit_jax.backbones.placement import Placement
from liveedit_jax.backbones.vit import patches, prepend_cls, vit_stack


def used_layers_n(cfg: ClipConfig) -> int:
    """Return the number of layers below `cfg.feature_layer`; later ones are never computed."""
    return cfg.layers_n + 1 + cfg.feature_layer if cfg.feature_layer < 0 else cfg.feature_layer


class ClipVision(nn.Module):
    """CLIP's tower: patch embedding, CLS token, learned positions, a norm, and layers."""

    cfg: ClipConfig
    place: Placement | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "B S S 3"]) -> Float[Array, "B P W"]:
        """Return the hidden state `cfg.feature_layer` of the patches, after CLS if it is kept."""
        cfg = self.cfg
        x = nn.Dense(cfg.width, use_bias=False, name="patch")(patches(image, cfg.patch_size))
        cls = self.param("cls", nn.initializers.normal(0.02), (cfg.width,))
        shape = (cfg.tokens_n + (not cfg.keep_cls), cfg.width)
        x = prepend_cls(cls, x, self.param("position", nn.initializers.normal(0.02), shape))
        x = nn.LayerNorm(epsilon=cfg.norm_eps, name="norm_pre")(x)
        layers = vit_stack(cfg, used_layers_n(cfg), ACTIVATIONS[cfg.activation], self.place)
        states = layers(x, None)[0]
        return states if cfg.keep_cls else states[:, 1:]
