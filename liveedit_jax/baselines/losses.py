"""The loss of an edit's targets, which editors minimise."""

from __future__ import annotations

from jaxtyping import Array, Float

from liveedit_jax.backbones import Backbone
from liveedit_jax.data.tokenise import answer_labels
from liveedit_jax.editor.losses import answer_nll
from liveedit_jax.types import Batch


def target_loss(
    backbone: Backbone, logits: Float[Array, "B T V"], batch: Batch
) -> Float[Array, ""]:
    """Average the cross-entropy of the answer tokens and EOS."""
    label, answer, eos = answer_labels(batch, backbone.cfg.eos_id)
    return answer_nll(logits, label, answer | eos)
