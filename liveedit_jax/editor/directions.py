"""Routing keys of our own: directions, in place of the paper's attended features (docs/method.md).

    image = unit(W x + b)    x: the mean of the normalised VISION states
    text  = unit(W y + b)    y: the mean of the normalised PROMPT states, the mean word embedding

An expert is hit if the cosine of its picture's direction and the query's exceeds one constant. Its
text score is slope * cosine - offset: above 0, it is about what is asked. Both are products of
keys, so that repository and routing are those of the paper. Edits and queries share a map: the same
picture and prompt always have cosine 1.
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
        "kernel": jnp.eye(width, cfg.image_direction_n),
        "bias": jnp.zeros(cfg.image_direction_n),
        "threshold": jnp.asarray(0.9),
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


def picture_features(tokens: Tokens, role: Int[AnyArray, "B T"]) -> Float[Array, "B D"]:
    """Compute what the direction of a picture is made of."""
    return mean_state(tokens, role == Role.VISION)


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
