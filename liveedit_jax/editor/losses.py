"""The training losses as pure functions of arrays (paper equations 8 to 16)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.config import EditorConfig


def _mean_over_samples(value: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, ""]:
    """Average each sample over its mask, then over samples; one with an empty mask counts as 0."""
    return (jnp.where(mask, value, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1)).mean()


def generation_mask(
    cfg: EditorConfig, answer_mask: Bool[Array, "B T"], eos_mask: Bool[Array, "B T"]
) -> Bool[Array, "B T"]:
    """Return the positions that reliability and generality count: answer tokens, perhaps EOS."""
    return answer_mask | eos_mask if cfg.train_eos else answer_mask


def answer_nll(
    logits: Float[Array, "B T V"], label: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, ""]:
    """Compute the cross-entropy at the masked positions, in float32."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return _mean_over_samples(-jnp.take_along_axis(log_p, label[..., None], -1)[..., 0], mask)


def locality_kl(
    edited: Float[Array, "B T V"],
    original: Float[Array, "B T V"],
    mask: Bool[Array, "B T"],
    direction: str,
) -> Float[Array, ""]:
    """Compute KL(edited || original), as released, or KL(original || edited), as in the paper.

    Args:
        edited: logits of the edited model.
        original: logits of the unedited model.
        mask: positions that count.
        direction: "edited_to_original" or "original_to_edited".
    """
    p, q = jax.nn.log_softmax(edited), jax.nn.log_softmax(original)
    if direction == "original_to_edited":
        p, q = q, p
    return _mean_over_samples((jnp.exp(p) * (p - q)).sum(-1), mask)


def soft_routing(score: Float[Array, "B B"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Compute the relative and absolute soft routing losses of B pairs of neighbours.

    Args:
        score: text similarities of every side 0 to every side 1; pairs are on the diagonal.
    """
    p = jnp.diag(jax.nn.softmax(score, axis=1))
    i = jnp.arange(score.shape[0])
    # sigmoid(-x) for 1 - sigmoid(x): the compiler may turn 1 - 1 + 1e-8 into 0, whose log is -inf
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
    """Compute the InfoNCE loss over the batch's vision similarities and the sentinel's.

    Args:
        score: vision similarities of every side 0 to every side 1; pairs are on the diagonal.
        threshold: similarity of every side 0 to its sentinel feature.
        neighbours: True: the correct column is the pair's; False: it is the sentinel's.
        same: True for pairs about the same subject, which are not used as negatives; None, as
            released: all are used.
        repository_n: negatives weigh as if this many edits were stored; None, as released: B.
    """
    b = score.shape[0]
    negative = ~jnp.eye(b, dtype=bool) if neighbours else jnp.ones((b, b), bool)
    if repository_n is not None:
        score = score + jnp.where(negative, jnp.log(repository_n / b), 0.0)
    if same is not None:
        score = jnp.where(negative & same, -1e30, score)
    p = jax.nn.softmax(jnp.concatenate([score, threshold[:, None]], axis=1), axis=1)
    return -jnp.log((jnp.diag(p[:, :-1]) if neighbours else p[:, -1]) + 1e-8).mean()
