"""The decoder layer of Llama's kind: RMSNorm, rotary positions, grouped queries, a gated MLP."""

from __future__ import annotations

import flax.linen as nn
from einops import rearrange
from jaxtyping import Array, Float, Int

from liveedit_jax.backbone_config import LlamaConfig
from liveedit_jax.backbones.activations import ACTIVATIONS
from liveedit_jax.backbones.attention import Attention, Cache, Context
from liveedit_jax.backbones.family import ATTENTION, NORM_AFTER_MLP, NORMS, LinearCall, Split
from liveedit_jax.backbones.linear import Linear
from liveedit_jax.backbones.norms import RMSNorm

MLP = ("gate", "up", "down")  # the linear layers that `mlp` applies
SPLITS = {
    **ATTENTION,
    **NORMS,
    **dict.fromkeys(("q_norm", "k_norm", "norm1_after", NORM_AFTER_MLP), Split.WHOLE),
    "gate": Split.COLUMN,
    "up": Split.COLUMN,
    "down": Split.ROW,
}


def norm(cfg: LlamaConfig) -> nn.Module:
    """Create the norm in front of the head."""
    return RMSNorm(cfg.norm_eps)


def mlp(cfg: LlamaConfig, linear: LinearCall, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Apply the gated MLP to normalised states; `linear(name, x)` applies one layer of `MLP`."""
    return linear("down", ACTIVATIONS[cfg.activation](linear("gate", x)) * linear("up", x))


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
        attention = Attention(
            cfg.heads_n,
            cfg.kv_heads_n,
            cfg.head_width,
            qkv_bias=cfg.qkv_bias,
            out_bias=cfg.out_bias,
            norm_eps=cfg.norm_eps if cfg.qk_norm else None,
            scale=cfg.attention_scale,
            cap=cfg.attention_cap,
            name="attention",
        )
        y = RMSNorm(cfg.norm_eps, name="norm1")(x)
        y, cache = attention(y, context.of(kind), cache)
        if cfg.norms_after:
            y = RMSNorm(cfg.norm_eps, name="norm1_after")(y)
        x = x + y
        y = rearrange(RMSNorm(cfg.norm_eps, name="norm2")(x), "b t d -> (b t) d")
        y = mlp(cfg, lambda name, y: Linear(width[name], use_bias=False, name=name)(y), y)
        if cfg.norms_after:
            y = RMSNorm(cfg.norm_eps, name=NORM_AFTER_MLP)(y)
        x = x + rearrange(y, "(b t) d -> b t d", b=x.shape[0])
        return x, cache if self.keep_cache else None
