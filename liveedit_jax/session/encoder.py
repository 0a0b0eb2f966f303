"""Requests to experts: the part of a session that needs the editor's weights."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import liveedit
from liveedit_jax.model_io.model import no_editor
from liveedit_jax.session.model import OpenModel
from liveedit_jax.store import Header
from liveedit_jax.types import Batch, Expert

PARTS = ("text_key", "vision_key", "down", "up")


@partial(jax.jit, static_argnums=(0, 1))
def _experts(
    backbone: Backbone,
    cfg: EditorConfig,
    weights: dict,
    editor: liveedit.PreparedEditor,
    batch: Batch,
    features: Float[Array, "N P D"],
) -> Expert:
    hidden = backbone.lower_from_features(weights, batch, features)
    return liveedit.experts_of_batch(cfg, backbone, weights, editor, batch, hidden)


class ExpertEncoder:
    """A model's editor with its constants folded; makes experts of requests."""

    def __init__(self, model: OpenModel):
        """Fold the editor's constants.

        Raises:
            ValueError: the model has no editor.
        """
        parts = model.parts
        if parts.editor is None:
            raise ValueError(no_editor(parts.folder))
        self.model, self.cfg = model, parts.config.editor
        self.editor = jax.jit(liveedit.prepare, static_argnums=0)(self.cfg, parts.editor)

    @property
    def header(self) -> Header:
        """Describe a repository of this model's experts."""
        cfg, width, parts = self.cfg, self.model.backbone.cfg.width, self.model.parts
        keys = {"text_key": (cfg.text_key_n,), "vision_key": (cfg.vision_key_n,)}
        shapes = keys | dict.fromkeys(("down", "up"), (cfg.rank, width))
        hashes = parts.backbone_sha256, parts.editor_sha256, parts.tokenizer_sha256
        return Header(*hashes, shapes)

    def experts(
        self, batch: Batch, features: Float[Array, "B P D"], n: int
    ) -> dict[str, np.ndarray]:
        """Make the arrays [n, ...] of the experts of a batch's first `n` requests."""
        model = self.model
        made = _experts(model.backbone, self.cfg, model.weights, self.editor, batch, features)
        return {name: np.asarray(getattr(made, name))[:n] for name in PARTS}
