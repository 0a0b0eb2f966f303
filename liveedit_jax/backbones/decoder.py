"""The functions of a decoder of any kind, as `registry` has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbone_config import DecoderConfig, LayerKind, RematPolicy
from liveedit_jax.backbones.attention import Context, rotary
from liveedit_jax.backbones.family import NORM_AFTER_MLP
from liveedit_jax.backbones.placement import Placement, place_weights
from liveedit_jax.backbones.quantise import dequantise, dequantise_layer
from liveedit_jax.backbones.registry import apply_module, find_decoder
from liveedit_jax.backbones.sequence import Positions, on_axes
from liveedit_jax.types import AnyArray

POLICIES = {
    RematPolicy.PRODUCTS: jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    RematPolicy.INPUTS: jax.checkpoint_policies.nothing_saveable,
}


class CrossKind(NamedTuple):
    """The kind of one layer (or of several) of a decoder with cross-attention."""

    kind: Int[AnyArray, " *L"] | None  # None: all layers are alike
    cross: Int[AnyArray, " *L"]  # number of the cross-attention in front of it; -1: there is none


Kind = Int[AnyArray, " *L"] | CrossKind | None  # what a layer is told that others are not


def _with_cross(cfg: DecoderConfig, place: Placement | None) -> type[nn.Module]:
    """Make the class of layers with their cross-attention in front of them, where there is any."""
    layer = find_decoder(cfg).layer
    if not cfg.cross_every:
        return layer
    attention = cross(cfg)

    class Crossed(layer):  # type: ignore[misc, valid-type]  # a base that is known at run time
        def __call__(self, x, cache, context: Context, kind: CrossKind):
            seen = context.cross
            if seen is None or seen.weights is None:
                return super().__call__(x, cache, context, kind.kind)

            def attend(y: Array) -> Array:
                own = jax.tree.map(lambda leaf: leaf[kind.cross], seen.weights)
                own = dequantise(place_weights(place, own))
                features = y if seen.features is None else seen.features
                return apply_module(attention, own, y, features, seen.mask).astype(y.dtype)

            y = jax.lax.cond(kind.cross >= 0, attend, lambda y: y, x)
            y, cache = super().__call__(y, cache, context, kind.kind)
            if seen.carried is not None:
                y = jnp.where(seen.carried[..., None], x, y)
            return y, cache

    return Crossed


def layer(cfg: DecoderConfig, keep_cache: bool = False) -> nn.Module:
    """Create a decoder layer, which is called as `layer(hidden, cache, context, kind)`."""
    return _with_cross(cfg, None)(cfg, keep_cache)


def cross(cfg: DecoderConfig) -> nn.Module:
    """Create a gated cross-attention, which is called as `cross(hidden, features, mask)`.

    Raises:
        ValueError: the decoder's family has none.
    """
    make = find_decoder(cfg).cross
    if make is None:
        raise ValueError(f"cross_every={cfg.cross_every}: {type(cfg).__name__} has no such part")
    return make(cfg)


def init_cross(cfg: DecoderConfig, key: Array) -> dict[str, dict]:
    """Initialise all layers of cross-attention, stacked, as a part "cross"; empty without them."""
    if not cfg.cross_every:
        return {}
    x, module = jnp.zeros((1, 1, cfg.width)), cross(cfg)
    mask = jnp.ones((1, 1, 1), bool)
    keys = jax.random.split(key, cfg.cross_n)
    return {"cross": jax.vmap(lambda one: module.init(one, x, x, mask)["params"])(keys)}


def stack(
    cfg: DecoderConfig,
    layers_n: int,
    cached: bool,
    keep_cache: bool,
    keep: RematPolicy = RematPolicy.ALL,
    place: Placement | None = None,
    cross_place: Placement | None = None,
) -> nn.Module:
    """Create a scan over decoder layers, called as `stack(hidden, cache, context, kinds)`.

    `kinds` is `layer_kinds` of its layers.

    Args:
        cfg: the decoder.
        layers_n: the number of layers; every parameter has a leading axis of this length.
        cached: whether `cache` is a cache of all layers, stacked; otherwise it is None.
        keep_cache: whether the layers' keys and values are returned, stacked.
        keep: the activations that are saved for gradients.
        place: where a mesh has states and weights.
        cross_place: where it has the weights of cross-attention.
    """
    body = dequantise_layer(_with_cross(cfg, cross_place), place)
    if keep is not RematPolicy.ALL:
        body = nn.remat(body, prevent_cse=False, policy=POLICIES[keep])
    differ = bool(cfg.kinds or cfg.cross_every)
    scanned = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0 if cached else nn.broadcast, nn.broadcast, 0 if differ else nn.broadcast),
        length=layers_n,
    )
    return scanned(cfg, keep_cache)


def norm(cfg: DecoderConfig) -> nn.Module:
    """Create a norm of the decoder's kind, as in front of the head."""
    return find_decoder(cfg).norm(cfg)


def layer_kinds(cfg: DecoderConfig, first: int, layers_n: int) -> Kind:
    """Return the kinds of `layers_n` layers from layer `first` on; None: all layers are alike."""
    kinds = np.asarray(cfg.layer_kinds[first : first + layers_n], np.int32) if cfg.kinds else None
    if not cfg.cross_every:
        return kinds
    number = np.arange(first, first + layers_n, dtype=np.int32)
    has_one = number % cfg.cross_every == 0
    return CrossKind(kinds, np.where(has_one, number // cfg.cross_every, -1))


def layer_kind(cfg: DecoderConfig, layer: int) -> Kind:
    """Return the kind of one layer; None: all layers are alike."""
    return jax.tree.map(lambda every: every[0], layer_kinds(cfg, layer, 1))


def context(
    cfg: DecoderConfig,
    position: Positions,
    mask: Bool[Array, "K B T S"] | Bool[Array, "B T S"],
    write: Int[Array, " B"] | None = None,
) -> Context:
    """Compute the inputs that all layers of a forward pass share.

    Args:
        cfg: the decoder.
        position: of the pass's tokens.
        mask: what they attend to, in layers of each kind; without the axis K: in all layers.
        write: as in `Context`.
    """
    mask, position = mask if mask.ndim == 4 else mask[None], on_axes(cfg, position)

    def turns(kind: LayerKind) -> tuple[Array, Array]:
        if kind.rope_base is None:  # beside layers that turn: the identity
            shape = (*position.shape[:2], cfg.head_width)
            return jnp.ones(shape), jnp.zeros(shape)
        axes, factor = cfg.rope_axes, kind.rope_factor
        return rotary(position, cfg.head_width, kind.rope_base, axes, factor)

    kinds = cfg.kinds or (LayerKind(rope_base=cfg.rope_base),)
    if all(kind.rope_base is None for kind in kinds):
        return Context(None, None, mask, write)
    cos, sin = (jnp.stack(every) for every in zip(*map(turns, kinds), strict=True))
    return Context(cos, sin, mask, write)


def init_positions(cfg: DecoderConfig, key: Array) -> dict[str, Array]:
    """Initialise the table of learned positions; empty without them."""
    if not cfg.positions_n:
        return {}
    shape = (cfg.position_offset + cfg.positions_n, cfg.width)
    return {"position": 0.02 * jax.random.normal(key, shape)}


def scale_embeddings(cfg: DecoderConfig, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Multiply the embeddings of tokens by `cfg.embed_scale`, rounded to their dtype."""
    return x if cfg.embed_scale == 1 else x * jnp.asarray(cfg.embed_scale, x.dtype)


def add_positions(
    cfg: DecoderConfig, weights: dict, x: Float[Array, "B T D"], position: Positions
) -> Float[Array, "B T D"]:
    """Add learned positions to embeddings; rotary positions are part of the context instead."""
    if not cfg.positions_n:
        return x
    return x + weights["position"][position + cfg.position_offset]


def mlp_parts(cfg: DecoderConfig) -> tuple[str, ...]:
    """Return the names of the linear layers of a decoder layer's MLP."""
    return find_decoder(cfg).mlp_parts


def linear(part: dict, x: Float[Array, "... X"]) -> Float[Array, "... Y"]:
    """Apply a linear layer `{"kernel": ..., "bias": ...}`; the bias is optional."""
    y = x @ part["kernel"]
    return y + part["bias"] if "bias" in part else y


def mlp_with(
    cfg: DecoderConfig, own: dict, apply: Callable[[str, Array], Array], x: Float[Array, "... D"]
) -> Float[Array, "... D"]:
    """Compute what a layer's MLP adds to states, norms included.

    Args:
        cfg: the decoder.
        own: the layer's weights, of which the norms are used.
        apply: `apply(name, x)` applies one of the MLP's linear layers.
        x: the states in front of the MLP and of its norm.
    """
    y = find_decoder(cfg).mlp(cfg, apply, apply_module(norm(cfg), own["norm2"], x))
    if NORM_AFTER_MLP in own:
        y = apply_module(norm(cfg), own[NORM_AFTER_MLP], y)
    return y


def mlp(cfg: DecoderConfig, own: dict, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Compute what a layer's MLP adds to states; `own` has its norms and linear layers by name."""
    return mlp_with(cfg, own, lambda name, y: linear(own[name], y), x)
