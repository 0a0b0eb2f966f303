"""The CLIP vision tower (ViT, pre-norm, quick-GELU), up to the hidden state LLaVA reads."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from liveedit_jax.config import VisionConfig


def quick_gelu(x: Array) -> Array:
    """CLIP's activation: x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def used_layers_n(cfg: VisionConfig) -> int:
    """Layers that `cfg.feature_layer` needs; the checkpoint's later ones are never computed."""
    return cfg.layers_n + 1 + cfg.feature_layer if cfg.feature_layer < 0 else cfg.feature_layer


class VisionLayer(nn.Module):
    """One pre-norm transformer layer with full attention; a scan body (carry, _) -> (carry, _)."""

    cfg: VisionConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B P W"], _=None):
        """Patch states to patch states; a scan body."""
        cfg, b = self.cfg, x.shape[0]
        y = nn.LayerNorm(epsilon=cfg.norm_eps, name="norm1")(x)
        y = rearrange(y, "b p w -> (b p) w")  # one large matrix product beats B small ones

        def heads(name: str) -> Float[Array, "BH P C"]:
            z = nn.Dense(cfg.width, name=name)(y)
            return rearrange(z, "(b p) (h c) -> (b h) p c", b=b, h=cfg.heads_n)

        q, k, v = heads("q"), heads("k"), heads("v")
        scores = jnp.einsum("xqc,xkc->xqk", q, k) * (cfg.width // cfg.heads_n) ** -0.5
        weights = jax.nn.softmax(scores.astype(jnp.float32), -1).astype(v.dtype)
        y = rearrange(jnp.einsum("xqk,xkc->xqc", weights, v), "(b h) p c -> (b p) (h c)", b=b)
        x = x + rearrange(nn.Dense(cfg.width, name="o")(y), "(b p) w -> b p w", b=b)
        y = nn.LayerNorm(epsilon=cfg.norm_eps, name="norm2")(x)
        y = nn.Dense(cfg.mlp_width, name="fc1")(rearrange(y, "b p w -> (b p) w"))
        y = nn.Dense(cfg.width, name="fc2")(quick_gelu(y))
        return x + rearrange(y, "(b p) w -> b p w", b=b), None


class ClipVision(nn.Module):
    """Patch embedding, CLS token, learned positions, layers; returns the patches' features."""

    cfg: VisionConfig

    @nn.compact
    def __call__(self, image: Float[Array, "B S S 3"]) -> Float[Array, "B P W"]:
        """The selected hidden state of the patches."""
        cfg = self.cfg
        side = cfg.image_size // cfg.patch_size
        patches = rearrange(image, "b (i p) (j q) c -> b (i j) (p q c)", i=side, j=side)
        x = nn.Dense(cfg.width, use_bias=False, name="patch")(patches)
        cls = self.param("cls", nn.initializers.normal(0.02), (cfg.width,))
        position = self.param(
            "position", nn.initializers.normal(0.02), (1 + cfg.patches_n, cfg.width)
        )
        cls_row = jnp.broadcast_to(cls, (x.shape[0], 1, cfg.width))
        x = jnp.concatenate([cls_row, x], axis=1) + position
        x = nn.LayerNorm(epsilon=cfg.norm_eps, name="norm_pre")(x)
        stack = nn.scan(
            VisionLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=used_layers_n(cfg),
        )
        x, _ = stack(cfg, name="layers")(x, None)
        return x[:, 1:]
