"""FT-L (arXiv 2012.00363): fine-tune the MLP of one decoder layer on every edit in turn.

It reads the layer's states of image, prompt and target; the image enters as in any question. Each
edit starts from the weights that the last one left, with a fresh Adam, and takes at most `steps_n`
steps, none after a loss of `stop_loss`. With `bound`, FT-L's constraint, an edit moves no weight
further than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import optax

from liveedit_jax.baselines import layer
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.editor.descent import box_projection, descend
from liveedit_jax.editors import Editor


@dataclass(frozen=True)
class FtL(Editor):
    """FT-L's settings; the state is the MLP's linear layers."""

    layer: int | None = -2
    learning_rate: float = 3e-4
    steps_n: int = 50
    stop_loss: float = 0.01  # nats a token
    bound: float | None = None

    def encode(self, backbone, params, batch, seen):
        """Compute the states in front of the MLP."""
        return layer.mlp_states(backbone, params["backbone"], batch, seen)

    def init(self, backbone, params, capacity):
        """Return the unedited MLP."""
        return layer.mlp_weights(backbone, params["backbone"])

    def edit(self, backbone, params, state, known, batch):
        """Fine-tune the MLP on one request."""

        def loss(mlp):
            made = layer.logits_with_mlp(backbone, params["backbone"], mlp, known, batch)
            return target_loss(backbone, made, batch)

        optimizer = optax.adam(self.learning_rate)
        bounds = box_projection(state, self.bound)
        return descend(loss, state, optimizer, self.steps_n, self.stop_loss, bounds)[0]

    def logits(self, backbone, params, state, known, batch, at):
        """Compute the logits of the fine-tuned model."""
        return layer.logits_with_mlp(backbone, params["backbone"], state, known, batch, at)
