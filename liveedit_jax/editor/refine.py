"""Experts refined by gradient descent where they do not make the model answer their target.

    expert ─ upper ─► the target, and EOS? ─ yes ─► kept as it is
              ▲                │ no
              └─ Adam on `up` ◄┘

The paper makes an expert in one pass, as its generators have learnt to. For pictures and answers
unlike those of their training, a few steps of descent do what they cannot.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.data.tokenise import answer_labels
from liveedit_jax.editor.descent import descend
from liveedit_jax.editor.losses import answer_nll
from liveedit_jax.editor.mixing import mix
from liveedit_jax.types import Batch, Expert


class Targets(NamedTuple):
    """The target tokens of N requests and EOS, and the A positions that predict them."""

    at: Int[Array, "N A"]
    label: Int[Array, "N A"]
    mask: Bool[Array, "N A"]  # False where a target has fewer tokens


def read_targets(backbone: Backbone, batch: Batch) -> Targets:
    """Read the targets of requests about pictures; A is all that can follow a picture."""
    label, answer, eos = answer_labels(batch, backbone.cfg.eos_id)
    positions_n = label.shape[1] - backbone.cfg.vision_n
    at = jnp.argsort(~(answer | eos), axis=1, stable=True)[:, :positions_n]
    label, mask = (jnp.take_along_axis(leaf, at, axis=1) for leaf in (label, answer | eos))
    return Targets(at, label, mask)


def answer_lead(logits: Float[Array, "N A V"], targets: Targets) -> Float[Array, " N"]:
    """Compute the logit of each target token less that of the next best; return a row's least.

    Above 0, greedy decoding gives exactly the target. It is infinite for a row without a target.
    """
    own = jnp.arange(logits.shape[-1]) == targets.label[..., None]
    right = jnp.take_along_axis(logits, targets.label[..., None], axis=-1)[..., 0]
    other = jnp.where(own, -jnp.inf, logits).max(-1)
    return jnp.where(targets.mask, right - other, jnp.inf).min(-1)


def refining_loss(
    cfg: EditorConfig,
    backbone: Backbone,
    weights: dict,
    norm: dict,
    expert: Expert,
    hidden: Float[Array, "T D"],
    row: Batch,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Compute the cross-entropy of one request's target with its expert at weight 1.

    Returns:
        The loss, and whether every token of the target, and EOS, leads by `cfg.refine_margin`.
    """
    row, states = jax.tree.map(lambda leaf: leaf[None], (row, hidden))
    targets = read_targets(backbone, row)
    one = jnp.ones((1, 1))
    added = mix(cfg, norm, states, row.role, one, expert.down[None], expert.up[None])
    changed = backbone.keep_features(states, states + added, row.role)
    logits = backbone.upper(weights, changed, row, targets.at)
    takes = answer_lead(logits, targets)[0] > cfg.refine_margin
    return answer_nll(logits, targets.label, targets.mask), takes


def experts_take(
    cfg: EditorConfig,
    backbone: Backbone,
    weights: dict,
    norm: dict,
    expert: Expert,
    hidden: Float[Array, "N T D"],
    batch: Batch,
) -> Bool[Array, " N"]:
    """Return which of N experts need no refining; arguments as in `refine_experts`."""

    def takes(own: Expert, states: Float[Array, "T D"], row: Batch) -> Bool[Array, ""]:
        return refining_loss(cfg, backbone, weights, norm, own, states, row)[1]

    return jax.vmap(takes)(expert, hidden, batch.replace(image=None))


def refine_experts(
    cfg: EditorConfig,
    backbone: Backbone,
    weights: dict,
    norm: dict,
    expert: Expert,
    hidden: Float[Array, "N T D"],
    batch: Batch,
) -> Expert:
    """Refine the experts of N requests until the model answers each with its target.

    An expert is left as it is, to the bit, from the moment that it takes (`refining_loss`), and
    gets at most `cfg.refine_n` steps of Adam on `up`. Requests do not influence each other.

    Args:
        cfg: the editor; without `refine_n`, nothing is computed.
        backbone: the frozen model's functions.
        weights: its weights.
        norm: the LayerNorm in front of all experts.
        expert: generated experts.
        hidden: the requests' states at the edit layer.
        batch: the requests (picture, prompt, target); the pictures themselves are not read.
    """
    if not cfg.refine_n:
        return expert

    def refine(own: Expert, states: Float[Array, "T D"], row: Batch) -> Float[Array, "R D"]:
        def loss(up: Float[Array, "R D"]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
            made = own.replace(up=up)
            return refining_loss(cfg, backbone, weights, norm, made, states, row)

        unit = jnp.sqrt(jnp.square(own.up).mean())
        optimizer = optax.adam(cfg.refine_rate * unit)
        return descend(loss, own.up, optimizer, cfg.refine_n, None, has_learnt=True)[0]

    return expert.replace(up=jax.vmap(refine)(expert, hidden, batch.replace(image=None)))
