"""Routing keys of our own: directions, in place of the paper's attended features (docs/method.md).

    image = unit(W x + b)    x: means and deviations of the normalised VISION states, band by band
    text  = unit(W y + b)    y: the mean of the normalised PROMPT states, the mean word embedding

An expert is hit if the cosine of its picture's direction and the query's exceeds a threshold, which
grows with the logarithm of the number of live edits. Its text score is slope * cosine - offset:
above 0, it is about what is asked. Both are products of keys, so that repository and routing are
those of the paper. Edits and queries share a map: the same picture and prompt always have cosine 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor.attention import Tokens
from liveedit_jax.editor.routing import similarity_scale
from liveedit_jax.types import AnyArray, Role


def init_image(cfg: EditorConfig, width: int) -> dict:
    """Initialise the map of pictures of width D: it takes the first entries as they are."""
    return {
        "kernel": jnp.eye(picture_features_n(cfg, width), cfg.image_direction_n),
        "bias": jnp.zeros(cfg.image_direction_n),
        "threshold": jnp.asarray(0.9),
        "growth": jnp.asarray(0.0),
    }


def init_text(key: Array, cfg: EditorConfig, width: int) -> dict:
    """Initialise the map of prompts of width D: random projections, which keep angles roughly."""
    n = cfg.text_direction_n
    assert n is not None
    return {
        "kernel": jax.random.normal(key, (2 * width, n)) * (2 * width) ** -0.5,
        "bias": jnp.zeros(n),
        "slope": jnp.asarray(10.0),
        "offset": jnp.asarray(8.0),
    }


def unit(x: Float[Array, "... W"]) -> Float[Array, "... W"]:
    """Scale vectors to length 1; those that are nearly zero become zero."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def direction(params: dict, x: Float[Array, "B X"]) -> Float[Array, "B W"]:
    """Apply a linear map, and scale the results to length 1."""
    return unit(x @ params["kernel"] + params["bias"])


def mean_state(tokens: Tokens, mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """Compute the mean of the masked tokens' normalised states; zeros where there are none."""
    rate = tokens.rate * mask / jnp.maximum(mask.sum(-1, keepdims=True), 1)
    return jnp.einsum("bt,btd->bd", rate, tokens.hidden) - (rate * tokens.mean).sum(-1)[:, None]


def picture_features_n(cfg: EditorConfig, width: int) -> int:
    """Return F, the number of entries of `picture_features` at states of width D."""
    parts_n = 1 if cfg.image_bands_n == 1 else cfg.image_bands_n + 1
    return 2 * parts_n * width


def picture_features(
    cfg: EditorConfig, tokens: Tokens, role: Int[AnyArray, "B T"]
) -> Float[Array, "B F"]:
    """Compute what the direction of a picture is made of.

    The VISION tokens are cut into bands of consecutive ones (of a picture in rows of patches, these
    are stripes, which a mirror leaves in place). Each band, and the whole picture where there is
    more than one, gives the mean of its normalised states and their standard deviation; zeros
    where there are no tokens.
    """
    shown, bands_n = role == Role.VISION, cfg.image_bands_n
    states = (tokens.hidden - tokens.mean[..., None]) * tokens.rate[..., None]
    count = shown.sum(-1, keepdims=True)
    band = (jnp.cumsum(shown, -1) - 1) * bands_n // jnp.maximum(count, 1)
    part = jax.nn.one_hot(jnp.where(shown, band, bands_n), bands_n)
    if bands_n > 1:
        part = jnp.concatenate([part, shown[..., None]], -1)
    part /= jnp.maximum(part.sum(1, keepdims=True), 1)
    mean = jnp.einsum("btp,btd->bpd", part, states)
    square = jnp.einsum("btp,btd->bpd", part, jnp.square(states))
    deviation = jnp.sqrt(jnp.maximum(square - jnp.square(mean), 0.0))
    return jnp.concatenate([mean, deviation], -1).reshape(len(role), -1)


def prompt_features(
    tokens: Tokens, role: Int[AnyArray, "B T"], words: Float[Array, "B D"]
) -> Float[Array, "B 2*D"]:
    """Compute what the direction of a prompt is made of.

    Args:
        tokens: the edit layer's output.
        role: what each token is.
        words: the mean embedding of the prompt's tokens (`Backbone.mean_word`).
    """
    asked = role == Role.PROMPT
    return jnp.concatenate([mean_state(tokens, asked), words], axis=-1)


def text_key(text: Float[Array, "B W"]) -> Float[Array, "B W+1"]:
    """Append the constant that a query's offset is multiplied by."""
    return jnp.pad(text, ((0, 0), (0, 1)), constant_values=1.0)


def text_query(cfg: EditorConfig, params: dict, text: Float[Array, "B W"]) -> Float[Array, "B W+1"]:
    """Scale directions so that their similarity to a key is slope * cosine - offset."""
    asked = jnp.pad(params["slope"] * text, ((0, 0), (0, 1)), constant_values=0.0)
    return similarity_scale(cfg) * asked.at[:, -1].set(-params["offset"])


def image_query(cfg: EditorConfig, image: Float[Array, "B W"]) -> Float[Array, "B W"]:
    """Scale directions so that their similarity to a key is the cosine."""
    return similarity_scale(cfg) * image
