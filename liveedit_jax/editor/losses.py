"""The five groups of training losses as pure functions of arrays (paper equations 8 to 16)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.config import EditorConfig


def _mean_over_samples(value: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, ""]:
    """Masked mean per sample, then the mean over samples; an empty sample counts as zero."""
    return (jnp.where(mask, value, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1)).mean()


def generation_mask(
    cfg: EditorConfig, answer_mask: Bool[Array, "B T"], eos_mask: Bool[Array, "B T"]
) -> Bool[Array, "B T"]:
    """What reliability and generality count: answer tokens and, with `train_eos`, EOS."""
    return answer_mask | eos_mask if cfg.train_eos else answer_mask


def answer_nll(
    logits: Float[Array, "B T V"], label: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, ""]:
    """Cross-entropy on the masked positions."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return _mean_over_samples(-jnp.take_along_axis(log_p, label[..., None], -1)[..., 0], mask)


def locality_kl(
    edited: Float[Array, "B T V"],
    original: Float[Array, "B T V"],
    mask: Bool[Array, "B T"],
    direction: str,
) -> Float[Array, ""]:
    """KL(edited || original) as released, or KL(original || edited) as the paper writes."""
    p, q = jax.nn.log_softmax(edited), jax.nn.log_softmax(original)
    if direction == "original_to_edited":
        p, q = q, p
    return _mean_over_samples((jnp.exp(p) * (p - q)).sum(-1), mask)


def soft_routing(score: Float[Array, "B B"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Relative and absolute terms on the text similarities of neighbours (side 0 x side 1)."""
    p = jnp.diag(jax.nn.softmax(score, axis=1))
    i = jnp.arange(score.shape[0])
    # 1 - sigmoid(x) as sigmoid(-x): written out, 1 - 1 + 1e-8 may compile to 0, and its log to -inf
    apart = jax.nn.sigmoid(-score[i, (i - 1) % score.shape[0]])
    together = jax.nn.sigmoid(jnp.diag(score))
    relative = -jnp.log(p + 1e-8).mean()
    absolute = -(jnp.log(together + 1e-8) + jnp.log(apart + 1e-8)).mean()
    return relative, absolute


def hard_routing(
    score: Float[Array, "B B"],
    threshold: Float[Array, " B"],
    neighbours: bool,
    same: Bool[Array, "B B"] | None = None,
    repository_n: int | None = None,
) -> Float[Array, ""]:
    """InfoNCE over the batch's vision similarities and the own sentinel's.

    Args:
        score: side 0 against every side 1.
        threshold: side 0 against its sentinel feature.
        neighbours: the right column is the own pair; else (non-neighbours) the sentinel.
        same: pairs about one subject, which are no negatives; None, as released: all others are.
        repository_n: the negatives weigh as if so many edits were stored, not B.
    """
    b = score.shape[0]
    negative = ~jnp.eye(b, dtype=bool) if neighbours else jnp.ones((b, b), bool)
    if repository_n is not None:
        score = score + jnp.where(negative, jnp.log(repository_n / b), 0.0)
    if same is not None:
        score = jnp.where(negative & same, -1e30, score)
    p = jax.nn.softmax(jnp.concatenate([score, threshold[:, None]], axis=1), axis=1)
    return -jnp.log((jnp.diag(p[:, :-1]) if neighbours else p[:, -1]) + 1e-8).mean()
