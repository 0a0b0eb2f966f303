"""The compiled steps of an evaluation; each sees batches of a few static shapes only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.data.reading import pictures
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.editor import liveedit, routing
from liveedit_jax.evaluation.layout import Shapes
from liveedit_jax.types import Batch, Expert, Query, Repository, Route

KNOWN_BYTES = 4 * 2**30  # of vision features that are remembered
READERS_N = min(8, os.cpu_count() or 1)  # threads that decode pictures


@dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated: a frozen backbone, a prepared editor, and the run's static shapes."""

    backbone: Backbone
    cfg: EditorConfig
    weights: Any  # the backbone's
    editor: liveedit.Prepared
    tokenizer: Tokenizer
    shapes: Shapes


def answer_ids(
    backbone: Backbone,
    weights: Any,
    hidden: Float[Array, "B T D"],
    batch: Batch,
    position: Int[Array, "B A1"],
) -> Int[Array, "B A1"]:
    """The most likely token at every answer position (and for EOS), from the edit layer on."""
    return backbone.upper(weights, hidden, batch, position).argmax(-1).astype(jnp.int32)


@partial(jax.jit, static_argnums=(0, 1))
def encode(
    backbone: Backbone,
    cfg: EditorConfig,
    weights: Any,
    editor: liveedit.Prepared,
    batch: Batch,
    features: Float[Array, "B P D"],
    position: Int[Array, "B A1"],
) -> tuple[Float[Array, "B T D"], Query, Int[Array, "B A1"]]:
    """Everything of a probe that no edit changes: lower states, query, unedited answer."""
    hidden = backbone.lower_from_features(weights, batch, features)
    query = liveedit.encode_query(cfg, editor, hidden, batch.role)
    return hidden, query, answer_ids(backbone, weights, hidden, batch, position)


@partial(jax.jit, static_argnums=0)
def unedited_ids(
    backbone: Backbone,
    weights: Any,
    batch: Batch,
    features: Float[Array, "B P D"],
    position: Int[Array, "B A1"],
) -> Int[Array, "B A1"]:
    """The answers of a backbone as it is (fine-tuned weights, say)."""
    hidden = backbone.lower_from_features(weights, batch, features)
    return answer_ids(backbone, weights, hidden, batch, position)


@partial(jax.jit, static_argnums=0)
def experts(
    cfg: EditorConfig, editor: liveedit.Prepared, hidden: Float[Array, "N T D"], role: Array
) -> Expert:
    """Experts of the edits whose lower states these are."""
    return liveedit.generate_expert(cfg, editor, hidden, role)


@partial(jax.jit, static_argnums=0)
def routed(
    cfg: EditorConfig, repo: Repository, query: Query, at: Int[Array, "B 1"]
) -> tuple[Route, Float[Array, " B"]]:
    """Routes and margins of queries, each at its own moment (a column, to meet the rows)."""
    return routing.route(cfg, repo, query, at), routing.margin(cfg, repo, query, at)


@partial(jax.jit, static_argnums=(0, 1))
def edited_ids(
    backbone: Backbone,
    cfg: EditorConfig,
    weights: Any,
    editor: liveedit.Prepared,
    repo: Repository,
    hidden: Float[Array, "B T D"],
    batch: Batch,
    slot: Int[Array, "B K"],
    weight: Float[Array, "B K"],
    position: Int[Array, "B A1"],
) -> Int[Array, "B A1"]:
    """The edited answers, from lower states and routes."""
    plan = liveedit.Plan(editor.norm, weight, *routing.bodies(repo, slot))
    hidden = liveedit.AddExperts(cfg)(plan, hidden, batch.role)
    return answer_ids(backbone, weights, hidden, batch, position)


@partial(jax.jit, static_argnums=0)
def vision(backbone: Backbone, weights: Any, image: Float[Array, "B S S 3"]) -> Array:
    """Vision features of pictures."""
    return backbone.vision_features(weights, image)


@jax.jit
def bodies(repo: Repository, slot: Int[Array, "B K"]) -> tuple[Array, Array]:
    """The experts that routes chose, for generation to carry along."""
    return routing.bodies(repo, slot)


def image_key(image: bytes | Path | None) -> bytes:
    """What two probes with the same picture share."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    return b"" if image is None else str(image).encode()


def vision_features(
    subject: Subject, images: Sequence[bytes | Path | None], known: dict[bytes, np.ndarray]
) -> list[np.ndarray]:
    """Vision features f32[P, D] of each image, zeros for None.

    `known` is read and added to; the oldest leave it beyond KNOWN_BYTES.
    """

    def look(shown: np.ndarray) -> Array:
        return vision(subject.backbone, subject.weights, shown)

    return seen(look, subject.backbone.cfg, subject.shapes.batch_n, images, known)


def seen(
    look: Callable[[np.ndarray], Array],
    cfg: BackboneConfig,
    batch_n: int,
    images: Sequence[bytes | Path | None],
    known: dict[bytes, np.ndarray],
) -> list[np.ndarray]:
    """What `look` makes of each picture, `batch_n` at a time; zeros for None.

    `known` is read and added to; the oldest leave it beyond KNOWN_BYTES.
    """
    if b"" not in known:
        blank = jax.ShapeDtypeStruct((1, *cfg.image_shape), np.float32)
        known[b""] = np.zeros(jax.eval_shape(look, blank).shape[1:], np.float32)
    keys = [image_key(image) for image in images]
    new = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
    todo, read = list(new), pictures(cfg, new.values(), READERS_N)
    for start in range(0, len(todo), batch_n):
        part = todo[start : start + batch_n]
        shown = np.zeros((batch_n, *cfg.image_shape), np.float32)
        for b, (_, picture) in enumerate(zip(part, read, strict=False)):
            shown[b] = picture.pixels
        found = np.asarray(look(shown))
        known |= {key: found[b].copy() for b, key in enumerate(part)}
    found = [known[key] for key in keys]
    most = max(KNOWN_BYTES // known[b""].nbytes, 1)
    for key in [key for key in known if key][: max(len(known) - most, 0)]:
        del known[key]
    return found
