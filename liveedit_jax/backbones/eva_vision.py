"""EVA's ViT-g as in BLIP-2 and MiniGPT-4: patches with a bias, exact GELU, final norm, CLS kept."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from liveedit_jax.backbone_config import Activation, EvaConfig
from liveedit_jax.backbones.activations import ACTIVATIONS
from liveedit_jax.backbones.placement import Placement
from liveedit_jax.backbones.vit import patches, prepend_cls, vit_stack


class EvaVision(nn.Module):
    """EVA's tower: patch embedding, CLS token, learned positions, layers, and a final norm."""

    cfg: EvaConfig
    place: Placement | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "B S S 3"]) -> Float[Array, "B P W"]:
        """Return the last hidden states, CLS first."""
        cfg = self.cfg
        x = nn.Dense(cfg.width, name="patch")(patches(image, cfg.patch_size))
        cls = self.param("cls", nn.initializers.normal(0.02), (cfg.width,))
        shape = (cfg.tokens_n, cfg.width)
        x = prepend_cls(cls, x, self.param("position", nn.initializers.normal(0.02), shape))
        layers = vit_stack(cfg, cfg.layers_n, ACTIVATIONS[Activation.GELU], self.place)
        return nn.LayerNorm(epsilon=cfg.last_norm_eps, name="norm_last")(layers(x, None)[0])
