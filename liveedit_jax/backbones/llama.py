"""The Llama decoder layer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from liveedit_jax.backbone_config import LlamaConfig
from liveedit_jax.backbones.attention import Attention, Cache, Context
from liveedit_jax.backbones.family import ATTENTION, NORMS, LinearCall, Split
from liveedit_jax.backbones.linear import Linear

MLP = ("gate", "up", "down")  # the linear layers that `mlp` applies
SPLITS = {**ATTENTION, **NORMS, "gate": Split.COLUMN, "up": Split.COLUMN, "down": Split.ROW}


class RMSNorm(nn.Module):
    """The norm x / rms(x) * scale, computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalise states."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        rms = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * rms).astype(x.dtype) * scale


def norm(cfg: LlamaConfig) -> nn.Module:
    """Create the norm in front of the head."""
    return RMSNorm(cfg.norm_eps)


def mlp(cfg: LlamaConfig, linear: LinearCall, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Apply the SwiGLU MLP to normalised states; `linear(name, x)` applies one layer of `MLP`."""
    return linear("down", jax.nn.silu(linear("gate", x)) * linear("up", x))


class LlamaLayer(nn.Module):
    """A Llama layer, as the body of a scan: (hidden, cache) -> (hidden, cache or None)."""

    cfg: LlamaConfig
    keep_cache: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: Cache | None,
        context: Context,
        kind: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Return the layer's output and, with `keep_cache`, its keys and values."""
        cfg = self.cfg
        width = {"gate": cfg.mlp_width, "up": cfg.mlp_width, "down": cfg.width}
        attention = Attention(cfg.heads_n, cfg.kv_heads_n, cfg.head_width, name="attention")
        y = RMSNorm(cfg.norm_eps, name="norm1")(x)
        y, cache = attention(y, context.of(kind), cache)
        x = x + y
        y = rearrange(RMSNorm(cfg.norm_eps, name="norm2")(x), "b t d -> (b t) d")
        y = mlp(cfg, lambda name, y: Linear(width[name], use_bias=False, name=name)(y), y)
        x = x + rearrange(y, "(b t) d -> b t d", b=x.shape[0])
        return x, cache if self.keep_cache else None
