"""Expert bodies: the paper's f_eg (equation 1), one generator for `down` and one for `up`.

attend(phi[R, M], LN(h)) / (s * sqrt(R)),   h = VISION ++ PROMPT ++ ANSWER states of the edit
"""

from __future__ import annotations

from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import attention as att


class Generator(NamedTuple):
    """One generator with its constant queries folded."""

    query: Float[Array, "R heads D"]
    value: att.Value


def init_generator(key: Array, cfg: EditorConfig, width: int) -> dict:
    """Fresh weights."""
    phi, attention = jax.random.split(key)
    std = (2 / (cfg.rank * cfg.module_width)) ** 0.5
    return {
        "query": jax.random.normal(phi, (cfg.rank, cfg.module_width)) * std,
        "norm": att.init_norm(width),
        "attention": att.init_attention(attention, cfg.module_width, width, width),
    }


def prepare(cfg: EditorConfig, params: dict) -> Generator:
    """Fold the learned queries into the keys."""
    attention, norm = params["attention"], params["norm"]
    heads_n = cfg.generator_heads_n or cfg.heads_n
    return Generator(
        att.fold_constant(attention, norm, params["query"], heads_n),
        att.fold_value(attention, norm, heads_n),
    )


def generate(
    cfg: EditorConfig,
    generator: Generator,
    tokens: att.Tokens,
    mask: Bool[Array, "N T"],
) -> Float[Array, "N R D"]:
    """One side of the experts' bodies, from normalised tokens."""
    scale = cfg.expert_scale * cfg.rank**0.5
    return att.attend_folded(generator.query, generator.value, tokens, mask) / scale
