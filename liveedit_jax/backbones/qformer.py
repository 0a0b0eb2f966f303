"""BLIP-2's Q-Former: learned queries attend to each other and, every few layers, to the image."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from liveedit_jax.backbone_config import QFormerConfig


class CrossAttention(nn.Module):
    """BERT's attention of x to y: an output projection, a residual, and a norm after it."""

    cfg: QFormerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B Q W"], y: Float[Array, "B P X"]) -> Float[Array, "B Q W"]:
        """Attend from x to y."""
        cfg = self.cfg

        def heads(z: Array, name: str) -> Float[Array, "B H N C"]:
            return rearrange(
                nn.Dense(cfg.width, name=name)(z), "b n (h c) -> b h n c", h=cfg.heads_n
            )

        q, k, v = heads(x, "q"), heads(y, "k"), heads(y, "v")
        scores = jnp.einsum("bhqc,bhkc->bhqk", q, k) * (cfg.width // cfg.heads_n) ** -0.5
        weights = jax.nn.softmax(scores.astype(jnp.float32), -1).astype(v.dtype)
        mixed = rearrange(jnp.einsum("bhqk,bhkc->bhqc", weights, v), "b h q c -> b q (h c)")
        x = x + nn.Dense(cfg.width, name="o")(mixed)
        return nn.LayerNorm(epsilon=cfg.norm_eps, name="norm")(x)


class QFormerLayer(nn.Module):
    """A post-norm layer: self-attention, attention to the image if `cross`, and an MLP."""

    cfg: QFormerConfig
    cross: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Q W"], image: Float[Array, "B P X"]
    ) -> Float[Array, "B Q W"]:
        """Update the queries' states."""
        cfg = self.cfg
        x = CrossAttention(cfg, name="attention")(x, x)
        if self.cross:
            x = CrossAttention(cfg, name="cross")(x, image)
        y = jax.nn.gelu(nn.Dense(cfg.mlp_width, name="fc1")(x), approximate=False)
        x = x + nn.Dense(cfg.width, name="fc2")(y)
        return nn.LayerNorm(epsilon=cfg.norm_eps, name="norm")(x)


class QFormer(nn.Module):
    """The Q-Former and the linear layer that projects its output to width D."""

    cfg: QFormerConfig
    width: int  # D

    @nn.compact
    def __call__(self, image: Float[Array, "B P W"]) -> Float[Array, "B Q D"]:
        """Return a vision feature for each query."""
        cfg = self.cfg
        shape = (cfg.queries_n, cfg.width)
        query = self.param("query", nn.initializers.normal(0.02), shape)
        x = jnp.broadcast_to(query, (image.shape[0], *shape)).astype(image.dtype)
        x = nn.LayerNorm(epsilon=cfg.norm_eps, name="norm")(x)
        for i in range(cfg.layers_n):
            x = QFormerLayer(cfg, i % cfg.cross_every == 0, name=f"layer{i}")(x, image)
        return nn.Dense(self.width, name="linear")(x)
