"""LLaVA-1.5 as pure functions of its weights, split after the edit layer.

image ─ ClipVision ─ Projector ─► features ┐
tokens ─ embed ────────────────────────────┴► lower (layers 0..edit_layer) ─► hidden
hidden ─► upper (the layers after it, norm, head) ─► logits
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones.clip_vision import ClipVision
from liveedit_jax.backbones.llama import (
    Cache,
    Context,
    DecoderLayer,
    RMSNorm,
    decoder_stack,
    rotary,
)
from liveedit_jax.backbones.projector import Projector
from liveedit_jax.config import LlavaConfig
from liveedit_jax.types import Batch, Role


def positions(batch: Batch) -> Int[Array, "B T"]:
    """Rotary positions: the batch's own, or 0..n-1 over the tokens that are not padding."""
    if batch.position is not None:
        return batch.position
    return jnp.maximum(jnp.cumsum(batch.role != Role.PAD, axis=1) - 1, 0)


def attention_mask(batch: Batch) -> Array:
    """Causal, never to padding, and within a packed row only to segment 0 or one's own."""
    t = batch.token.shape[1]
    mask = jnp.tril(jnp.ones((t, t), bool)) & (batch.role != Role.PAD)[:, None, :]
    if batch.segment is not None:
        query, key = batch.segment[:, :, None], batch.segment[:, None, :]
        mask = mask & ((key == 0) | (key == query))
    return mask


@dataclass(frozen=True)
class Backbone:
    """The functions of one backbone; hashable, so it can be a static argument of jit."""

    cfg: LlavaConfig

    @property
    def lower_n(self) -> int:
        """Decoder layers in `lower`."""
        return self.cfg.edit_layer + 1

    @property
    def upper_n(self) -> int:
        """Decoder layers in `upper`."""
        return self.cfg.decoder.layers_n - self.lower_n

    def init(self, key: Array) -> dict:
        """Fresh float32 weights as nested dicts."""
        cfg = self.cfg
        keys = jax.random.split(key, 6)
        side, width = cfg.vision.image_size, cfg.decoder.width
        hidden, context = (
            jnp.zeros((1, 2, width)),
            self._context(jnp.zeros((1, 2), jnp.int32), None),
        )
        features = jnp.zeros((1, 1, cfg.vision.width))

        def stack(key, n):
            return decoder_stack(cfg.decoder, n, False, False).init(key, hidden, None, context)

        params = {
            "vision": ClipVision(cfg.vision).init(keys[0], jnp.zeros((1, side, side, 3))),
            "projector": Projector(width).init(keys[1], features),
            "lower": stack(keys[2], self.lower_n),
            "upper": stack(keys[3], self.upper_n),
        }
        params = {name: tree["params"] for name, tree in params.items()}
        normal = jax.nn.initializers.normal(width**-0.5)
        params["embed"] = normal(keys[4], (cfg.decoder.vocab_n, width))
        params["norm"] = {"scale": jnp.ones(width)}
        if not cfg.decoder.tied_head:
            params["head"] = normal(keys[5], (width, cfg.decoder.vocab_n))
        return params

    def _context(self, position: Array, mask: Array | None, write: Array | None = None) -> Context:
        decoder = self.cfg.decoder
        cos, sin = rotary(position, decoder.head_width, decoder.rope_base)
        if mask is None:
            mask = jnp.ones((*position.shape, position.shape[1]), bool)
        return Context(cos, sin, mask, write)

    def context(self, batch: Batch) -> Context:
        """Rotary tables and attention mask of a whole batch."""
        return self._context(positions(batch), attention_mask(batch))

    def vision_features(
        self, params: dict, image: Float[Array, "B S S 3"]
    ) -> Float[Array, "B P D"]:
        """Projected vision tokens."""
        states = ClipVision(self.cfg.vision).apply({"params": params["vision"]}, image)
        return Projector(self.cfg.decoder.width).apply({"params": params["projector"]}, states)

    def embed(
        self, params: dict, batch: Batch, features: Float[Array, "B P D"] | None
    ) -> Float[Array, "B T D"]:
        """Token embeddings with the vision features at the VISION roles, in order; zero at PAD."""
        x = params["embed"][batch.token]
        if features is not None:
            is_vision = batch.role == Role.VISION
            nth = jnp.clip(jnp.cumsum(is_vision, axis=1) - 1, 0, features.shape[1] - 1)
            placed = jnp.take_along_axis(features, nth[..., None], axis=1)
            x = jnp.where(is_vision[..., None], placed, x)
        return jnp.where((batch.role != Role.PAD)[..., None], x, 0)

    def lower_from_features(
        self, params: dict, batch: Batch, features: Float[Array, "B P D"] | None
    ) -> Float[Array, "B T D"]:
        """The edit layer's output, from vision features computed before (None: no row has one)."""
        x = self.embed(params, batch, features)
        return self.run_lower(params, x, self.context(batch))[0]

    def lower(self, params: dict, batch: Batch) -> Float[Array, "B T D"]:
        """The OUTPUT of decoder layer `edit_layer`."""
        return self.lower_from_features(params, batch, self.vision_features(params, batch.image))

    def upper(
        self,
        params: dict,
        hidden: Float[Array, "B T D"],
        batch: Batch,
        at: Int[Array, "B A"] | None = None,
    ) -> Float[Array, "B T V"] | Float[Array, "B A V"]:
        """Logits (float32) from the edit layer's output, of all positions or of those in `at`."""
        states, _ = self.run_upper(params, hidden, self.context(batch))
        if at is not None:
            states = jnp.take_along_axis(states, at[..., None], axis=1)
        return self.head(params, states)

    def edit_layer_again(
        self, params: dict, hidden: Float[Array, "B T D"], batch: Batch
    ) -> Float[Array, "B T D"]:
        """Decoder layer `edit_layer` applied to its own output (the released training does)."""
        last = jax.tree.map(lambda leaf: leaf[-1], params["lower"])
        layer = DecoderLayer(self.cfg.decoder)
        return layer.apply({"params": last}, hidden, None, self.context(batch))[0]

    def run_lower(
        self,
        params: dict,
        x: Float[Array, "B T D"],
        context: Context,
        cache: Cache | None = None,
        keep_cache: bool = False,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Layers 0..edit_layer on embeddings, with an optional stacked key-value cache."""
        stack = decoder_stack(self.cfg.decoder, self.lower_n, cache is not None, keep_cache)
        return stack.apply({"params": params["lower"]}, x, cache, context)

    def run_upper(
        self,
        params: dict,
        hidden: Float[Array, "B T D"],
        context: Context,
        cache: Cache | None = None,
        keep_cache: bool = False,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """The layers after the edit layer, with an optional stacked key-value cache."""
        stack = decoder_stack(self.cfg.decoder, self.upper_n, cache is not None, keep_cache)
        return stack.apply({"params": params["upper"]}, hidden, cache, context)

    def head(self, params: dict, states: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Final norm and language-model head."""
        norm = RMSNorm(self.cfg.decoder.norm_eps)
        states = norm.apply({"params": params["norm"]}, states)
        kernel = params["embed"].T if self.cfg.decoder.tied_head else params["head"]
        flat = rearrange(states, "b t d -> (b t) d") @ kernel
        return rearrange(flat.astype(jnp.float32), "(b t) v -> b t v", b=states.shape[0])
