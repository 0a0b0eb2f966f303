"""The OPT decoder layer: pre-norm LayerNorm, attention with biases, a ReLU MLP."""

from __future__ import annotations

import flax.linen as nn
import jax
from einops import rearrange
from jaxtyping import Array, Float, Int

from liveedit_jax.backbone_config import OptConfig
from liveedit_jax.backbones.attention import Attention, Cache, Context
from liveedit_jax.backbones.family import LinearCall
from liveedit_jax.backbones.linear import Linear

MLP = ("fc1", "fc2")  # the linear layers that `mlp` applies


def norm(cfg: OptConfig) -> nn.Module:
    """Create the norm in front of the head."""
    return nn.LayerNorm(epsilon=cfg.norm_eps)


def mlp(cfg: OptConfig, linear: LinearCall, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Apply the ReLU MLP to normalised states; `linear(name, x)` applies one layer of `MLP`."""
    return linear("fc2", jax.nn.relu(linear("fc1", x)))


class OptLayer(nn.Module):
    """An OPT layer, as the body of a scan: (hidden, cache) -> (hidden, cache or None)."""

    cfg: OptConfig
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
        width = {"fc1": cfg.mlp_width, "fc2": cfg.width}
        attention = Attention(
            cfg.heads_n,
            cfg.kv_heads_n,
            cfg.head_width,
            qkv_bias=True,
            out_bias=True,
            name="attention",
        )
        y = nn.LayerNorm(epsilon=cfg.norm_eps, name="norm1")(x)
        y, cache = attention(y, context.of(kind), cache)
        x = x + y
        y = nn.LayerNorm(epsilon=cfg.norm_eps, name="norm2")(x)
        y = rearrange(y, "b t d -> (b t) d")
        y = mlp(cfg, lambda name, y: Linear(width[name], name=name)(y), y)
        x = x + rearrange(y, "(b t) d -> b t d", b=x.shape[0])
        return x, cache if self.keep_cache else None
