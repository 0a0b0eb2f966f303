"""A vision-language model as pure functions of its weights, split after the edit layer.

image ─ tower ─ bridge ─► features ┐
tokens ─ embed ────────────────────┴► lower (layers 0..edit_layer) ─► hidden
hidden ─► upper (the layers after it, norm, head) ─► logits
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones import decoder
from liveedit_jax.backbones.attention import Cache, Context
from liveedit_jax.backbones.placement import Placement, place_weights
from liveedit_jax.backbones.quantise import dequantise
from liveedit_jax.backbones.registry import apply_module, bridge, tower
from liveedit_jax.backbones.sequence import (
    Positions,
    attention_mask,
    carried,
    crossing,
    positions,
)
from liveedit_jax.types import AnyArray, Batch, Role


def split_at(weights: dict, edit_layer: int) -> dict:
    """Split weights after decoder layer `edit_layer`, wherever they were split before.

    Raises:
        ValueError: the decoder has no such layer.
    """
    lower, upper = weights["lower"], weights["upper"]
    lower_n, upper_n = (len(jax.tree.leaves(half)[0]) for half in (lower, upper))
    if not 0 <= edit_layer < lower_n + upper_n:
        raise ValueError(f"edit_layer={edit_layer}: from 0 to {lower_n + upper_n - 1}")
    n = edit_layer + 1
    if n == lower_n:
        return weights
    every = jax.tree.map(lambda *halves: jnp.concatenate(halves), lower, upper)
    halves = {"lower": slice(None, n), "upper": slice(n, None)}
    return weights | {k: jax.tree.map(lambda x, s=s: x[s], every) for k, s in halves.items()}


@dataclass(frozen=True)
class Backbone:
    """The functions of one backbone; hashable, so it can be a static argument of jit."""

    cfg: BackboneConfig
    place: Callable[[str], Placement] | None = None  # gives each part's placement on a mesh

    def placement(self, part: str) -> Placement | None:
        """Return the placement of a part of the weights; None: not on a mesh."""
        return None if self.place is None else self.place(part)

    @property
    def lower_n(self) -> int:
        """Return the number of decoder layers in `lower`."""
        return self.cfg.edit_layer + 1

    @property
    def upper_n(self) -> int:
        """Return the number of decoder layers in `upper`."""
        return self.cfg.decoder.layers_n - self.lower_n

    def init(self, key: Array) -> dict:
        """Initialise float32 weights, as nested dicts."""
        cfg = self.cfg
        keys = jax.random.split(key, 6)
        side, width = cfg.vision.image_size, cfg.width
        image, hidden = jnp.zeros((1, side, side, 3)), jnp.zeros((1, 2, width))
        context = decoder.context(cfg.decoder, jnp.zeros((1, 2), int), jnp.ones((1, 2, 2), bool))
        states = jax.eval_shape(lambda: tower(cfg).init_with_output(keys[0], image)[0])

        def stack(key, first, n):
            made = decoder.stack(cfg.decoder, n, False, False)
            kinds = decoder.layer_kinds(cfg.decoder, first, n)
            return made.init(key, hidden, None, context, kinds)["params"]

        normal = jax.nn.initializers.normal(width**-0.5)
        weights = {
            "vision": tower(cfg).init(keys[0], image)["params"],
            "projector": bridge(cfg).init(keys[1], jnp.zeros(states.shape))["params"],
            "lower": stack(keys[2], 0, self.lower_n),
            "upper": stack(keys[3], self.lower_n, self.upper_n),
            "embed": normal(keys[4], (cfg.decoder.vocab_n, width)),
            "norm": decoder.norm(cfg.decoder).init(key, hidden)["params"],
            **decoder.init_positions(cfg.decoder, jax.random.fold_in(key, 6)),
            **decoder.init_cross(cfg.decoder, jax.random.fold_in(key, 8)),
        }
        if not cfg.decoder.tied_head:
            weights["head"] = normal(keys[5], (width, cfg.decoder.vocab_n))
        if cfg.tiles is not None and cfg.tiles.newline:
            weights["newline"] = normal(jax.random.fold_in(key, 7), (width,))
        return weights

    def context(self, batch: Batch) -> Context:
        """Compute the positions and the attention mask of a whole batch."""
        cfg = self.cfg.decoder
        found = decoder.context(cfg, positions(cfg, batch), attention_mask(cfg, batch))
        return found._replace(cross=crossing(cfg, batch))

    def with_cross(self, weights: dict, context: Context) -> Context:
        """Add the weights of cross-attention to a context; without it, nothing changes."""
        if context.cross is None:
            return context
        return context._replace(cross=context.cross._replace(weights=weights["cross"]))

    def keep_features(
        self,
        hidden: Float[Array, "B T D"],
        changed: Float[Array, "B T D"],
        role: Int[AnyArray, "B T"],
    ) -> Float[Array, "B T D"]:
        """Return an editor's change of states without that of features that no layer changes."""
        kept = carried(self.cfg.decoder, role)
        return changed if kept is None else jnp.where(kept[..., None], hidden, changed)

    def tower_states(
        self, weights: dict, pixels: Float[AnyArray, "B S S 3"]
    ) -> Float[Array, "B P W"]:
        """Compute the vision tower's output for pictures (or tiles), which the bridge reads."""
        pixels = jnp.asarray(pixels, weights["embed"].dtype)
        vision = {
            name: part if name == "layers" else dequantise(part)  # scanned layers do it themselves
            for name, part in weights["vision"].items()
        }
        return apply_module(tower(self.cfg, self.placement("vision")), vision, pixels)

    def vision_features(
        self, weights: dict, image: Float[AnyArray, "B S S 3"] | Float[AnyArray, "B N S S 3"]
    ) -> Float[Array, "B P D"]:
        """Compute vision features in the decoder's width.

        The features of N tiles come one after another, then the learned newline where there is
        one. `Batch.place` gives each VISION token's feature.
        """
        tiled = image.ndim == 5
        pixels = rearrange(image, "b n s t c -> (b n) s t c") if tiled else image
        states = self.tower_states(weights, pixels)
        bridged = dequantise(place_weights(self.placement("projector"), weights["projector"]))
        features = apply_module(bridge(self.cfg), bridged, states)
        if tiled:
            features = rearrange(features, "(b n) p d -> b (n p) d", n=image.shape[1])
        if "newline" not in weights:
            return features
        newline = jnp.broadcast_to(weights["newline"], (image.shape[0], 1, self.cfg.width))
        return jnp.concatenate([features, newline.astype(features.dtype)], axis=1)

    def embed(
        self, weights: dict, batch: Batch, features: Float[Array, "B P D"] | None
    ) -> Float[Array, "B T D"]:
        """Embed tokens, with vision features at VISION tokens and zeros at PAD.

        Features are taken in order, or as `batch.place` says.
        """
        x = jnp.asarray(place_weights(self.placement("embed"), weights["embed"]))[batch.token]
        x = decoder.scale_embeddings(self.cfg.decoder, x)
        if features is not None:
            is_vision = batch.role == Role.VISION
            place = batch.place
            if place is None:
                place = jnp.cumsum(is_vision, axis=1) - 1
            place = jnp.clip(place, 0, features.shape[1] - 1)
            placed = jnp.take_along_axis(features, place[..., None], axis=1).astype(x.dtype)
            x = jnp.where(is_vision[..., None], placed, x)
        position = positions(self.cfg.decoder, batch)
        x = decoder.add_positions(self.cfg.decoder, weights, x, position)
        return jnp.where((batch.role != Role.PAD)[..., None], x, 0)

    def mean_word(self, weights: dict, batch: Batch) -> Float[Array, "B D"]:
        """Compute the mean embedding of each row's PROMPT tokens, in float32; zeros without any."""
        words = place_weights(self.placement("embed"), weights["embed"])[batch.token]
        asked = (batch.role == Role.PROMPT)[..., None]
        total = jnp.sum(words, 1, jnp.float32, where=asked)
        return total / jnp.maximum(asked.sum(1), 1)

    def embed_next(
        self, weights: dict, token: Int[Array, " B"], position: Positions
    ) -> Float[Array, "B 1 D"]:
        """Embed one generated token per row, at its position [B, 1] or [B, 1, 3]."""
        x = decoder.scale_embeddings(self.cfg.decoder, weights["embed"][token][:, None])
        return decoder.add_positions(self.cfg.decoder, weights, x, position)

    def lower_from_features(
        self, weights: dict, batch: Batch, features: Float[Array, "B P D"] | None
    ) -> Float[Array, "B T D"]:
        """Compute the edit layer's output from vision features (None: no row has an image)."""
        x = self.embed(weights, batch, features)
        return self.run_lower(weights, x, self.context(batch))[0]

    def lower(self, weights: dict, batch: Batch) -> Float[Array, "B T D"]:
        """Compute the OUTPUT of decoder layer `edit_layer` from tokens and pixels."""
        features = None if batch.image is None else self.vision_features(weights, batch.image)
        return self.lower_from_features(weights, batch, features)

    def upper(
        self,
        weights: dict,
        hidden: Float[Array, "B T D"],
        batch: Batch,
        at: Int[AnyArray, "B A"] | None = None,
    ) -> Float[Array, "B T V"] | Float[Array, "B A V"]:
        """Compute float32 logits from the edit layer's output, at positions `at` (None: at all)."""
        states, _ = self.run_upper(weights, hidden, self.context(batch))
        if at is not None:
            states = jnp.take_along_axis(states, at[..., None], axis=1)
        return self.head(weights, states)

    def edit_layer_again(
        self, weights: dict, hidden: Float[Array, "B T D"], batch: Batch
    ) -> Float[Array, "B T D"]:
        """Apply decoder layer `edit_layer` to its own output, as the released training does."""
        last = dequantise(jax.tree.map(lambda leaf: leaf[-1], weights["lower"]))
        cfg = self.cfg.decoder
        kind = decoder.layer_kind(cfg, self.cfg.edit_layer)
        context = self.with_cross(weights, self.context(batch))
        return apply_module(decoder.layer(cfg), last, hidden, None, context, kind)[0]

    def _run(
        self, weights: dict, part: str, x: Array, context: Context, cache: Cache | None, keep: bool
    ) -> tuple[Array, Cache | None]:
        cfg, place, cached = self.cfg, self.placement(part), cache is not None
        first, n = (0, self.lower_n) if part == "lower" else (self.lower_n, self.upper_n)
        cross_place = self.placement("cross")
        stack = decoder.stack(cfg.decoder, n, cached, keep, cfg.keep, place, cross_place)
        kinds = decoder.layer_kinds(cfg.decoder, first, n)
        context = self.with_cross(weights, context)
        return apply_module(stack, weights[part], x, cache, context, kinds)

    def run_lower(
        self,
        weights: dict,
        x: Float[Array, "B T D"],
        context: Context,
        cache: Cache | None = None,
        keep_cache: bool = False,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Run layers 0..edit_layer on embeddings, with an optional key-value cache of all layers.

        Returns the last layer's output and, with `keep_cache`, the keys and values, stacked.
        """
        return self._run(weights, "lower", x, context, cache, keep_cache)

    def run_upper(
        self,
        weights: dict,
        hidden: Float[Array, "B T D"],
        context: Context,
        cache: Cache | None = None,
        keep_cache: bool = False,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Run the layers after the edit layer; arguments and results are as in `run_lower`."""
        hidden = hidden.astype(weights["embed"].dtype)  # an editor's residual is float32
        return self._run(weights, "upper", hidden, context, cache, keep_cache)

    def head(self, weights: dict, states: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Apply the final norm and the language-model head; logits are float32."""
        states = apply_module(decoder.norm(self.cfg.decoder), weights["norm"], states)
        part = "embed" if self.cfg.decoder.tied_head else "head"
        kernel = place_weights(self.placement(part), weights[part])
        kernel = kernel.T if self.cfg.decoder.tied_head else kernel
        flat = (rearrange(states, "b t d -> (b t) d") @ kernel).astype(jnp.float32)
        cap = self.cfg.decoder.logit_cap
        if cap is not None:
            flat = cap * jnp.tanh(flat / cap)
        return rearrange(flat, "(b t) v -> b t v", b=states.shape[0])
