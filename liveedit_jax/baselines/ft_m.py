"""FT-M: fine-tune the bridge between vision tower and decoder on every edit in turn.

It reads the tower's states of the image, so answers to questions without a picture cannot change.
Otherwise it is as FT-L.
"""

from __future__ import annotations

from dataclasses import dataclass

import optax

from liveedit_jax.backbones.registry import bridge
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.editor.descent import box_projection, descend
from liveedit_jax.editors import Editor


@dataclass(frozen=True)
class FtM(Editor):
    """FT-M's settings; the state is the bridge's weights."""

    layer: int | None = None
    learning_rate: float = 3e-4
    steps_n: int = 50
    stop_loss: float = 0.01  # nats a token
    bound: float | None = None

    def encode_image(self, backbone, params, image):
        """Compute the tower's states, which the bridge reads."""
        return backbone.tower_states(params["backbone"], image)

    def encode(self, backbone, params, batch, seen):
        """Return the tower's states, since edits change everything behind them."""
        return seen

    def unedited_logits(self, backbone, params, known, batch, seen, at):
        """Compute the logits of the model with its own bridge."""
        own = self.init(backbone, params, 0)
        return self.logits(backbone, params, own, known, batch, at)

    def init(self, backbone, params, capacity):
        """Return the unedited bridge."""
        return params["backbone"]["projector"]

    def edit(self, backbone, params, state, known, batch):
        """Fine-tune the bridge on one request."""

        def loss(weights):
            made = self.logits(backbone, params, weights, known, batch, None)
            return target_loss(backbone, made, batch)

        optimizer = optax.adam(self.learning_rate)
        bounds = box_projection(state, self.bound)
        return descend(loss, state, optimizer, self.steps_n, self.stop_loss, bounds)[0]

    def logits(self, backbone, params, state, known, batch, at):
        """Compute the logits of the model with the fine-tuned bridge."""
        features = bridge(backbone.cfg).apply({"params": state}, known)
        hidden = backbone.lower_from_features(params["backbone"], batch, features)
        return backbone.upper(params["backbone"], hidden, batch, at)
