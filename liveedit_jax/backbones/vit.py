"""The pre-norm vision transformer that the towers of CLIP and EVA share."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from liveedit_jax.backbone_config import VitConfig
from liveedit_jax.backbones.placement import Placement
from liveedit_jax.backbones.quantise import dequantise_layer
from liveedit_jax.types import AnyArray


class VitLayer(nn.Module):
    """A layer with full attention, as the body of a scan: (states, None) -> (states, None)."""

    heads_n: int
    mlp_width: int
    norm_eps: float
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Float[Array, "B P W"], _=None):
        """Return the layer's output, and None for the scan."""
        b, _, width = x.shape
        y = nn.LayerNorm(epsilon=self.norm_eps, name="norm1")(x)
        y = rearrange(y, "b p w -> (b p) w")  # one large matrix product beats B small ones

        def heads(name: str) -> Float[Array, "BH P C"]:
            z = nn.Dense(width, name=name)(y)
            return rearrange(z, "(b p) (h c) -> (b h) p c", b=b, h=self.heads_n)

        q, k, v = heads("q"), heads("k"), heads("v")
        scores = jnp.einsum("xqc,xkc->xqk", q, k) * (width // self.heads_n) ** -0.5
        weights = jax.nn.softmax(scores.astype(jnp.float32), -1).astype(v.dtype)
        y = rearrange(jnp.einsum("xqk,xkc->xqc", weights, v), "(b h) p c -> (b p) (h c)", b=b)
        x = x + rearrange(nn.Dense(width, name="o")(y), "(b p) w -> b p w", b=b)
        y = nn.LayerNorm(epsilon=self.norm_eps, name="norm2")(x)
        y = nn.Dense(self.mlp_width, name="fc1")(rearrange(y, "b p w -> (b p) w"))
        y = nn.Dense(width, name="fc2")(self.activation(y))
        return x + rearrange(y, "(b p) w -> b p w", b=b), None


def vit_stack(
    cfg: VitConfig,
    layers_n: int,
    activation: Callable[[Array], Array],
    place: Placement | None,
) -> nn.Module:
    """Create a scan over `layers_n` layers; parameters have a leading layer axis."""
    scanned = nn.scan(
        dequantise_layer(VitLayer, place),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=layers_n,
    )
    return scanned(cfg.heads_n, cfg.mlp_width, cfg.norm_eps, activation, name="layers")


def patches(image: Float[Array, "B S S 3"], size: int) -> Float[Array, "B P X"]:
    """Cut images into square patches, in reading order, each flattened (row, column, channel)."""
    return rearrange(image, "b (i p) (j q) c -> b (i j) (p q c)", p=size, q=size)


def prepend_cls(
    cls: Float[AnyArray, " W"], x: Float[Array, "B P W"], position: Float[AnyArray, "P1 W"]
) -> Float[Array, "B P1 W"]:
    """Prepend the CLS token, and add learned positions; P1 = P + 1."""
    row = jnp.broadcast_to(cls.astype(x.dtype), (x.shape[0], 1, x.shape[2]))
    return jnp.concatenate([row, x], axis=1) + position
