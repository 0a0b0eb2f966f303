"""Initialise image routing: images compared by their mean states, the sentinel calibrated.

A bridge learns to make pooled states of one subject's images alike, by products
(training/bridge.py), and hard routing multiplies features of images. A random value map in front of
the product blurs what parts them; a projection that keeps lengths and angles does not. Queries
start at zero, so that heads read the plain mean of an image's tokens. A threshold is a product of
the image with the sentinel's feature. The best is the same for all images, and how high it has to
be can be counted on those of training: a ridge regression finds the feature whose products are
most nearly 1, as far as the sentinel's tokens, whose length a LayerNorm fixes, can express it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.data.facts import SOURCES
from liveedit_jax.editor.attention import init_norm, normalise
from liveedit_jax.training.pretrain import picture_rows
from liveedit_jax.types import Role

SHRINKS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # ridges, in units of the mean eigenvalue


def mean_images(
    backbone: Backbone,
    weights: dict,
    pictures: Float[Array, "X P D"],
    eps: float,
    batch_n: int = 50,
) -> Float[Array, "X D"]:
    """The mean of the normalised VISION states of every picture, from its vision features."""

    @jax.jit
    def states(weights: dict, features: Float[Array, "N P D"]) -> Float[Array, "N D"]:
        rows = picture_rows(backbone, len(features))
        tokens = normalise(backbone.lower_from_features(weights, rows, features), eps)
        return jnp.mean(tokens, 1, where=(rows.role == Role.VISION)[..., None])

    cut = range(0, len(pictures), batch_n)
    return jnp.concatenate([states(weights, pictures[i : i + batch_n]) for i in cut])


def projection(images: Float[Array, "X D"], width: int) -> Float[Array, "D M"]:
    """Onto the M directions in which images are largest: columns of length 1 (zeros beyond D)."""
    basis = jnp.linalg.eigh(images.T @ images)[1][:, ::-1][:, :width]
    return jnp.pad(basis, ((0, 0), (0, width - basis.shape[1])))


def threshold_feature(
    images: Float[Array, "X M"], share: float, longest: float
) -> Float[Array, " M"]:
    """The feature whose product with an image is exceeded by `share` of all wrong pairs.

    Pairs are of two subjects; the drawings of one subject follow each other. The product is as
    nearly the same for all images as a feature no longer than `longest` makes it; where none is
    short enough the result is the shortest tried.
    """
    subject, m = jnp.arange(len(images)) // len(SOURCES), images.shape[1]
    wrong = subject[:, None] != subject[None]
    scores, moment = images @ images.T, images.T @ images / len(images)
    for shrink in SHRINKS:
        ridge = shrink * jnp.trace(moment) / m * jnp.eye(m)
        feature = jnp.linalg.solve(moment + ridge, images.mean(0))
        ratio = scores / (images @ feature)[:, None]
        feature *= jnp.nanquantile(jnp.where(wrong, ratio, jnp.nan), 1 - share)
        if jnp.linalg.norm(feature) <= longest:
            break
    return feature


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
    started, width = dict(params), images.shape[1]
    threshold = seen @ threshold_feature(images @ seen, share, width**0.5)
    for side in ("edit", "input"):
        vision = params[side]["vision_attention"]
        value = {"kernel": cfg.vision_init_scale * seen, "bias": jnp.zeros(cfg.module_width)}
        vision = vision | {"q": jax.tree.map(jnp.zeros_like, vision["q"]), "v": value}
        started[side] = params[side] | {"vision_attention": vision, "norm1": init_norm(width)}
    vision_n = params["input"]["sentinel"].shape[0]
    started["input"]["sentinel"] = sentinel_of(threshold, vision_n)
    return started
