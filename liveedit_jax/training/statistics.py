"""Initialise an editor's LayerNorms: each feature of the text they read gets mean 0, variance 1.

A LayerNorm makes a token's features comparable with each other; nothing makes one token comparable
with the next. In the states of a pretrained language model a few features are huge in every token,
so that two tokens agree mostly in what all tokens share. Scale and bias of the editor's own norms
can take that away before training begins.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from liveedit_jax.training.addressing import Edits
from liveedit_jax.types import AnyArray, Role

TEXT = (Role.PROMPT, Role.ANSWER)


@partial(jax.jit, static_argnums=2)
def standardising(
    tokens: Float[Array, "N T D"], role: Int[AnyArray, "N T"], roles: tuple[Role, ...]
) -> dict:
    """A LayerNorm's parameters that give the tokens of some roles mean 0 and variance 1.

    Args:
        tokens: normalised states, at least two of them with one of `roles`.
        role: what each is.
        roles: which to count.
    """
    counted = jnp.isin(role, jnp.asarray(roles, role.dtype))[..., None]
    n = counted.sum()
    mean = jnp.sum(tokens, (0, 1), jnp.float32, where=counted) / n
    var = jnp.sum((tokens - mean) ** 2, (0, 1), jnp.float32, where=counted) / n
    scale = jax.lax.rsqrt(var + 1e-6)
    return {"scale": scale, "bias": -mean * scale}


@jax.jit  # one pass: no copy of all states in float32
def standardised(edits: Edits, norm: dict) -> Edits:
    """The edits as they come out of a LayerNorm's scale and bias."""
    states = (edits.states * norm["scale"] + norm["bias"]).astype(edits.states.dtype)
    return edits._replace(states=states)


def start_norms(params: dict, edits: Edits) -> dict:
    """Return editor weights whose norms standardise what they read.

    Text attention reads PROMPT tokens, generators and experts all text. Norms in front of images
    stay as they are: there, what few features say most loudly is what tells images apart.
    """
    prompt, text = (
        standardising(edits.states, edits.role, roles) for roles in ((Role.PROMPT,), TEXT)
    )

    def own(norm: dict) -> dict:  # every leaf an array of its own: training donates them
        return jax.tree.map(jnp.copy, norm)

    started = params | {"norm": own(text)}
    for side in {"edit", "input"} & params.keys():
        started[side] = params[side] | {"norm2": own(prompt)}
    for side in ("down", "up"):
        started[side] = params[side] | {"norm": own(text)}
    return started
