"""Checked requests and questions as batches of one static shape, and requests as experts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from liveedit_jax.backbones import Backbone
from liveedit_jax.data.images import ProcessedImage, preprocess
from liveedit_jax.data.tokenise import Example, tokenise
from liveedit_jax.editor import liveedit
from liveedit_jax.model_io.model import Model
from liveedit_jax.store import Header
from liveedit_jax.types import Batch, Expert

BATCH_N = 16  # edits made in one call
PARTS = ("text_key", "vision_key", "down", "up")


@partial(jax.jit, static_argnums=(0, 1))
def _experts(backbone, cfg, weights, editor, batch: Batch) -> Expert:
    return liveedit.make_experts(cfg, backbone, weights, editor, batch)


class Maker:
    """Checked requests to experts, in batches of one static shape."""

    def __init__(self, model: Model, chat: bool = False):
        """Fold the editor's constants; `chat` puts the model's chat template around prompts.

        Raises:
            ValueError: the model was tuned with no template.
        """
        self.model, self.chat = model, model.config.backbone.chat if chat else None
        if chat and self.chat is None:
            raise ValueError(f"the model in {model.folder} has no chat template")
        self.backbone, self.cfg = Backbone(model.config.backbone), model.config.editor
        self.editor = jax.jit(liveedit.prepare, static_argnums=0)(self.cfg, model.editor)

    @property
    def header(self) -> Header:
        """What a repository of this model's experts says about itself."""
        cfg, width = self.cfg, self.backbone.cfg.width
        key, body = (cfg.queries_n * cfg.module_width,), (cfg.rank, width)
        shapes = {"text_key": key, "vision_key": key, "down": body, "up": body}
        return Header(self.model.backbone_sha256, self.model.editor_sha256, shapes)

    def batch(self, rows: Sequence[tuple[bytes | None, str, str | None]]) -> Batch:
        """Tokens and pictures of (image, prompt, target) rows.

        Raises:
            ValueError: an unreadable image, an empty text, or one longer than the budget.
        """
        model, cfg = self.model, self.backbone.cfg
        examples = []
        for image, prompt, target in rows:
            picture = ProcessedImage(None) if image is None else preprocess(cfg, image)
            examples.append(Example(prompt, target, *picture))
        budget = model.config.dataset.budget
        return tokenise(model.tokenizer, cfg, examples, budget, self.chat)

    def experts(self, rows: Sequence[tuple[bytes, str, str]]) -> dict[str, np.ndarray]:
        """The arrays [N, ...] of at most BATCH_N requests' experts."""
        n = len(rows)
        padded = [*rows] + [rows[0]] * ((BATCH_N if n > 1 else 1) - n)
        made = _experts(
            self.backbone, self.cfg, self.model.backbone, self.editor, self.batch(padded)
        )
        return {name: np.asarray(getattr(made, name))[:n] for name in PARTS}
