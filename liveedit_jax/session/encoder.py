"""Requests to experts: the part of a session that needs the editor's weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import REFINE_N, EditorConfig
from liveedit_jax.editor import liveedit, refine
from liveedit_jax.model_io.model import no_editor
from liveedit_jax.session.model import BATCH_N, OpenModel, trim
from liveedit_jax.store import Header
from liveedit_jax.store.records import Shapes
from liveedit_jax.types import Batch, Expert

PARTS = ("text_key", "vision_key", "down", "up")
REFINED_TOGETHER = (1, 4, BATCH_N)  # edits refined in one call: few sizes, few compilations


@partial(jax.jit, static_argnums=(0, 1))
def _generate(
    backbone: Backbone,
    cfg: EditorConfig,
    weights: dict,
    editor: liveedit.PreparedEditor,
    batch: Batch,
    features: Float[Array, "N P D"],
) -> tuple[Expert, Float[Array, "N T D"]]:
    hidden = backbone.lower_from_features(weights, batch, features)
    cfg = replace(cfg, refine_n=0)
    return liveedit.experts_of_batch(cfg, backbone, weights, editor, batch, hidden), hidden


_take = partial(jax.jit, static_argnums=(0, 1))(refine.experts_take)
_refine = partial(jax.jit, static_argnums=(0, 1))(refine.refine_experts)


class ExpertEncoder:
    """A model's editor with its constants folded; makes experts of requests."""

    def __init__(self, model: OpenModel, refine_n: int = REFINE_N):
        """Fold the editor's constants.

        Args:
            model: an open model.
            refine_n: the most steps to refine an edit that does not take; 0: none.

        Raises:
            ValueError: the model has no editor, or `refine_n` is below 0.
        """
        parts = model.parts
        if parts.editor is None or parts.editor_sha256 is None:
            raise ValueError(no_editor(parts.folder))
        self.model, self.cfg = model, replace(parts.config.editor, refine_n=refine_n)
        self.hashes = parts.backbone_sha256, parts.editor_sha256, parts.tokenizer_sha256
        self.editor = jax.jit(liveedit.prepare, static_argnums=0)(self.cfg, parts.editor)

    @property
    def header(self) -> Header:
        """Describe a repository of this model's experts."""
        body = (self.cfg.rank, self.model.backbone.cfg.width)
        shapes: Shapes = {
            "text_key": (self.cfg.text_key_n,),
            "vision_key": (self.cfg.vision_key_n,),
            "down": body,
            "up": body,
        }
        return Header(*self.hashes, shapes)

    def experts(
        self, batch: Batch, features: Float[Array, "B P D"], n: int
    ) -> dict[str, np.ndarray]:
        """Make the arrays [n, ...] of the experts of a batch's first `n` requests."""
        model = self.model
        made, hidden = _generate(
            model.backbone, self.cfg, model.weights, self.editor, batch, features
        )
        if self.cfg.refine_n:
            made = self._refined(made, hidden, batch, n)
        return {name: np.asarray(getattr(made, name))[:n] for name in PARTS}

    def _refined(self, made: Expert, hidden: Float[Array, "B T D"], batch: Batch, n: int) -> Expert:
        """Refine those of a batch's first `n` experts that do not take."""
        rows = trim(batch.replace(image=None))
        hidden = hidden[:, : rows.token.shape[1]]
        model = self.model
        fixed = self.cfg, model.backbone, model.weights, self.editor.norm
        missed = np.flatnonzero(~np.asarray(_take(*fixed, made, hidden, rows))[:n])
        if not len(missed):
            return made
        size = next(size for size in REFINED_TOGETHER if size >= len(missed))
        at = missed[np.minimum(np.arange(size), len(missed) - 1)]  # the last one again
        chosen = jax.tree.map(lambda leaf: leaf[at], (made, hidden, rows))
        up = np.array(made.up)
        up[missed] = np.asarray(_refine(*fixed, *chosen).up)[: len(missed)]
        return made.replace(up=up)
