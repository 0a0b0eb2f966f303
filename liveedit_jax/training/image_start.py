"""Where image routing starts: images compared by their mean states, the sentinel calibrated.

A bridge learns to make pooled states of one subject's images alike, by products
(training/bridge.py), and hard routing multiplies features of images. A random value map in front of
the product blurs what parts them; a projection that keeps lengths and angles does not. Queries
start at zero, so that heads read the plain mean of an image's tokens. A threshold is a product of
the image with the sentinel's feature, so a multiple of the mean image serves as one, and what
multiple lets how many wrong experts through can be counted on the images of training.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.data.facts import SOURCES
from liveedit_jax.editor.attention import init_norm, normalise
from liveedit_jax.training.pretrain import picture_rows
from liveedit_jax.types import Role


def mean_images(
    backbone: Backbone,
    weights: dict,
    pictures: Float[Array, "X P D"],
    eps: float,
    batch_n: int = 50,
) -> Float[Array, "X D"]:
    """The mean of the normalised VISION states of every picture, from its vision features."""

    @partial(jax.jit, static_argnums=0)
    def states(n: int, weights: dict, features: Float[Array, "N P D"]) -> Float[Array, "N D"]:
        rows = picture_rows(backbone, n)
        tokens = normalise(backbone.lower_from_features(weights, rows, features), eps)
        return jnp.mean(tokens, 1, where=(rows.role == Role.VISION)[..., None])

    cut = range(0, len(pictures), batch_n)
    some = [pictures[i : i + batch_n] for i in cut]
    return jnp.concatenate([states(len(part), weights, part) for part in some])


def projection(images: Float[Array, "X D"], width: int) -> Float[Array, "D M"]:
    """Onto the M directions in which images are largest: columns of length 1 (zeros beyond D)."""
    basis = jnp.linalg.eigh(images.T @ images)[1][:, ::-1][:, :width]
    return jnp.pad(basis, ((0, 0), (0, width - basis.shape[1])))


def false_hit_threshold(images: Float[Array, "X D"], share: float) -> Float[Array, ""]:
    """t: an image and t times the mean image are less alike than `share` of all wrong pairs.

    Pairs are of two subjects; the drawings of one subject follow each other.
    """
    subject = jnp.arange(len(images)) // len(SOURCES)
    level = images @ images.mean(0)
    ratio = (images @ images.T) / level[:, None]
    wrong = subject[:, None] != subject[None]
    return jnp.nanquantile(jnp.where(wrong, ratio, jnp.nan), 1 - share)


def sentinel_of(mean: Float[Array, " D"], vision_n: int) -> Float[Array, "P D"]:
    """P tokens that a LayerNorm leaves as they are, whose mean is `mean`.

    `mean` adds up to 0, as means of normalised tokens do. Tokens have the length that LayerNorm
    gives, so what a mean lacks of it goes into a plane at right angles, once around the circle. A
    mean that is longer than a token is shortened to one.
    """
    d = mean.shape[0]
    length = jnp.linalg.norm(mean)
    mean = mean * jnp.minimum(1.0, d**0.5 / length)
    rest = jnp.sqrt(jnp.maximum(d - mean @ mean, 0.0))
    # two directions at right angles to the mean and to (1, ..., 1)
    start = jnp.stack([jnp.ones(d), mean, *jax.random.normal(jax.random.key(0), (2, d))])
    plane = jnp.linalg.qr(start.T)[0].T[2:]
    angle = 2 * jnp.pi * jnp.arange(vision_n) / vision_n
    return mean + rest * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1) @ plane


def start_images(
    cfg: EditorConfig, params: dict, images: Float[Array, "X D"], share: float
) -> dict:
    """Editor weights whose image routing compares mean states.

    Args:
        cfg: the editor.
        params: its weights; what reads text, and the generators, stay as they are.
        images: `mean_images` of the training subjects.
        share: of other subjects' experts that the sentinel lets through.
    """
    seen = projection(images, cfg.module_width)
    threshold = false_hit_threshold(images @ seen, share)
    started, width = dict(params), images.shape[1]
    for side in ("edit", "input"):
        vision = params[side]["vision_attention"]
        value = {"kernel": cfg.vision_init_scale * seen, "bias": jnp.zeros(cfg.module_width)}
        vision = vision | {"q": jax.tree.map(jnp.zeros_like, vision["q"]), "v": value}
        started[side] = params[side] | {"vision_attention": vision, "norm1": init_norm(width)}
    vision_n = params["input"]["sentinel"].shape[0]
    started["input"]["sentinel"] = sentinel_of(threshold * images.mean(0), vision_n)
    return started
