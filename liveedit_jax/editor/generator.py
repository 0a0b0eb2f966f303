"""The generators of expert bodies: the paper's f_eg (equation 1), one for `down`, one for `up`.

attend(phi[R, M], LN(h)) / (s * sqrt(R)),   h = VISION ++ PROMPT ++ ANSWER states of the edit
"""

from __future__ import annotations

from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import attention as att


class Generator(NamedTuple):
    """A generator with its constant queries folded."""

    query: Float[Array, "R heads D"]
    value: att.Value


def init_generator(key: Array, cfg: EditorConfig, width: int) -> dict:
    """Initialise a generator for width D."""
    phi, attention = jax.random.split(key)
    std = (2 / (cfg.rank * cfg.module_width)) ** 0.5
    return {
        "query": jax.random.normal(phi, (cfg.rank, cfg.module_width)) * std,
        "norm": att.init_norm(width),
        "attention": att.init_attention(attention, cfg.module_width, width, width),
    }


def prepare(cfg: EditorConfig, params: dict) -> Generator:
    """Fold a generator's parameters."""
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
    """Generate the `down` or the `up` of N experts (paper equation 1)."""
    scale = cfg.expert_scale * cfg.rank**0.5
    return att.attend_folded(generator.query, generator.value, tokens, mask) / scale
