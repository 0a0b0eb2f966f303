"""Idefics, an open Flamingo: CLIP, a perceiver resampler, and Llama with gated cross-attention.

image ─ CLIP ─ resampler ─► latents ────────┬─────────────────┬──── (in front of every 4th layer)
tokens ─ embed ─ [cross-attention ─ Llama layer] ─ 3 layers ─ [cross-attention ─ Llama layer] ...

The latents are the rows of VISION. They are narrower than the decoder: zeros fill them up.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from liveedit_jax.backbone_config import BackboneConfig, BridgeConfig, LlamaConfig
from liveedit_jax.backbones import llama
from liveedit_jax.backbones.attention import attend
from liveedit_jax.backbones.family import ATTENTION, NORMS, Decoder, Part, Split
from liveedit_jax.backbones.linear import Linear
from liveedit_jax.backbones.norms import RMSNorm
from liveedit_jax.backbones.placement import Placement


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig(BridgeConfig):
    """A perceiver resampler: learned latents read the image's states and themselves."""

    latents_n: int = 64
    layers_n: int = 6
    heads_n: int = 16
    head_width: int = 96
    mlp_width: int = 5120
    qk_norm: bool = True
    norm_eps: float = 1e-5

    def features_n(self, vision) -> int:
        """Return the number of latents, whatever the tower gives."""
        return self.latents_n


@dataclass(frozen=True, kw_only=True)
class IdeficsConfig(LlamaConfig):
    """A Llama whose layers 0, 4, 8, ... have gated cross-attention in front of them."""

    base_vocab_n: int = 32000  # the rows of the vocabulary after these are stored apart
    vocab_n: int = 32002
    norm_eps: float = 1e-6
    cross_every: int = 4
    latent_width: int = 1280
    cross_qk_norm: bool = True  # an RMSNorm of every head's queries and keys in cross-attention
    gate_width: int = 1  # of a gate: 1, or the decoder's width


def _heads(x: Float[Array, "B T X"], heads_n: int) -> Float[Array, "B T N C"]:
    return rearrange(x, "b t (n c) -> b t n c", n=heads_n)


def _merge(x: Float[Array, "B T N C"]) -> Float[Array, "B T X"]:
    return rearrange(x, "b t n c -> b t (n c)")


class ResamplerLayer(nn.Module):
    """Attention of the latents to the image and to themselves, and a ReLU MLP, both pre-norm."""

    cfg: ResamplerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L W"], image: Float[Array, "B P W"]
    ) -> Float[Array, "B L W"]:
        """Update the latents."""
        cfg, width = self.cfg, x.shape[-1]

        def norm(name: str) -> nn.Module:
            return nn.LayerNorm(epsilon=cfg.norm_eps, name=name)

        def linear(n: int, name: str) -> nn.Module:
            return nn.Dense(n, use_bias=False, name=name)

        y = norm("norm1")(x)
        both = jnp.concatenate([norm("norm_image")(image), y], axis=1)
        inner = cfg.heads_n * cfg.head_width
        q, k, v = (
            _heads(linear(inner, name)(z), cfg.heads_n)
            for name, z in (("q", y), ("k", both), ("v", both))
        )
        if cfg.qk_norm:
            q, k = norm("q_norm")(q), norm("k_norm")(k)
        everything = jnp.ones((len(x), x.shape[1], both.shape[1]), bool)
        x = x + linear(width, "o")(_merge(attend(q, k, v, everything)))
        y = jax.nn.relu(linear(cfg.mlp_width, "fc1")(norm("norm2")(x)))
        return x + linear(width, "fc2")(y)


class Resampler(nn.Module):
    """The resampler, whose latents are filled up with zeros to the decoder's width D."""

    cfg: ResamplerConfig
    width: int  # D

    @nn.compact
    def __call__(self, image: Float[Array, "B P W"]) -> Float[Array, "B L D"]:
        """Return the latents of an image."""
        cfg, own_width = self.cfg, image.shape[-1]
        shape = (cfg.latents_n, own_width)
        x = self.param("latents", nn.initializers.normal(1.0), shape)
        x = jnp.broadcast_to(x, (len(image), *shape)).astype(image.dtype)
        for i in range(cfg.layers_n):
            x = ResamplerLayer(cfg, name=f"layer{i}")(x, image)
        x = nn.LayerNorm(epsilon=cfg.norm_eps, name="norm")(x)
        return jnp.pad(x, ((0, 0), (0, 0), (0, self.width - own_width)))


class GatedCrossAttention(nn.Module):
    """Attention to latents and a gated MLP; the tanh of a gate multiplies what each adds."""

    cfg: IdeficsConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        features: Float[Array, "B S D"],
        mask: Bool[Array, "B T S"],
    ) -> Float[Array, "B T D"]:
        """Update tokens; one that may read nothing gets nothing of attention, but of the MLP."""
        cfg, (b, _, width) = self.cfg, x.shape
        latents = features[..., : cfg.latent_width]

        def gate(name: str) -> Array:
            return jnp.tanh(self.param(name, nn.initializers.zeros, (cfg.gate_width,)))

        def linear(n: int, name: str, y: Float[Array, "B T X"]) -> Float[Array, "B T Y"]:
            flat = Linear(n, use_bias=False, name=name)(rearrange(y, "b t x -> (b t) x"))
            return rearrange(flat, "(b t) x -> b t x", b=b)

        y = RMSNorm(cfg.norm_eps, name="norm1")(x)
        q, k, v = (
            _heads(linear(width, name, z), cfg.heads_n)
            for name, z in (("q", y), ("k", latents), ("v", latents))
        )
        if cfg.cross_qk_norm:
            q, k = (RMSNorm(cfg.norm_eps, name=n)(z) for n, z in (("q_norm", q), ("k_norm", k)))
        read = linear(width, "o", _merge(attend(q, k, v, mask)))
        read = jnp.where(mask.any(-1, keepdims=True), read, 0)
        x = x + gate("attention_gate") * read
        y = RMSNorm(cfg.norm_eps, name="norm2")(x)
        widths = {"gate": cfg.mlp_width, "up": cfg.mlp_width, "down": width}
        y = llama.mlp(cfg, lambda name, z: linear(widths[name], name, z), y)
        return x + gate("mlp_gate") * y


def _resampler(cfg: BackboneConfig, place: Placement | None) -> nn.Module:
    assert isinstance(cfg.bridge, ResamplerConfig)
    return Resampler(cfg.bridge, cfg.width)


RESAMPLER = Part(
    config=ResamplerConfig,
    create=_resampler,
    splits={
        **{**ATTENTION, **NORMS, "fc1": Split.COLUMN, "fc2": Split.ROW},
        **dict.fromkeys(("latents", "norm", "norm_image", "q_norm", "k_norm"), Split.WHOLE),
    },
)
DECODER = Decoder(
    config=IdeficsConfig,
    layer=llama.LlamaLayer,
    norm=llama.norm,
    mlp=llama.mlp,
    mlp_parts=llama.MLP,
    splits={**llama.SPLITS, **dict.fromkeys(("attention_gate", "mlp_gate"), Split.WHOLE)},
    cross=GatedCrossAttention,
)
