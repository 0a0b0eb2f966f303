"""The experts' part of the edit layer's output: what edits add to the hidden states."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor.attention import layer_norm
from liveedit_jax.types import AnyArray, Role


def mix(
    cfg: EditorConfig,
    norm: dict,
    hidden: Float[Array, "B T D"],
    role: Int[AnyArray, "B T"],
    weight: Float[Array, "B K"],
    down: Float[Array, "B K R D"] | Float[Array, "K R D"],
    up: Float[Array, "B K R D"] | Float[Array, "K R D"],
) -> Float[Array, "B T D"]:
    """Compute the experts' residual Σ_k weight_k · relu(LN(h) · down_kᵀ) · up_k at every token.

    It is zero at padding. Each query has its own K experts, or, without a batch axis in `down` and
    `up`, all share the same ones.
    """
    tokens = layer_norm(norm, hidden, cfg.norm_eps)
    b = "b" if down.ndim == 4 else ""
    gate = jax.nn.relu(jnp.einsum(f"btd,{b}krd->btkr", tokens, down))
    out = jnp.einsum(f"btkr,{b}krd->btd", gate * weight[:, None, :, None], up)
    return jnp.where((role != Role.PAD)[..., None], out, 0.0).astype(hidden.dtype)
