"""Gradient descent on one request until it is learnt, for editors that optimise edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Tree = TypeVar("Tree")


def descend(
    loss: Callable[[Tree], Any],
    start: Tree,
    optimizer: optax.GradientTransformation,
    steps_n: int,
    stop_loss: float | None,
    project: Callable[[Tree], Tree] = lambda tree: tree,
    has_learnt: bool = False,
) -> tuple[Tree, Float[Array, " steps"]]:
    """Descend for at most `steps_n` steps with a fresh optimiser, until the request is learnt.

    Args:
        loss: a function of the weights.
        start: the weights to begin with.
        optimizer: made anew for this request.
        steps_n: the most steps.
        stop_loss: no step is taken after a loss of at most this (None: after any loss).
        project: projects the weights onto the allowed ones after every step.
        has_learnt: `loss` also returns whether these weights have learnt the request, bool[]. They
            are then kept as they are.

    Returns:
        The weights, and the loss before each step; NaN for those that were not computed.
    """
    both = loss if has_learnt else lambda tree: (loss(tree), jnp.zeros((), bool))
    gradient_of = jax.value_and_grad(both, has_aux=True)

    def unfinished(carry):
        step, _, _, losses, learnt = carry
        last = losses[jnp.maximum(step - 1, 0)]
        is_high = True if stop_loss is None else (step == 0) | (last > stop_loss)
        return (step < steps_n) & is_high & ~learnt

    def advance(carry):
        step, tree, moments, losses, _ = carry
        (value, learnt), gradient = gradient_of(tree)
        change, moments = optimizer.update(gradient, moments, tree)
        new = project(optax.apply_updates(tree, change))
        if has_learnt:
            new = jax.tree.map(lambda old, new: jnp.where(learnt, old, new), tree, new)
        return step + 1, new, moments, losses.at[step].set(value), learnt

    losses, learnt = jnp.full(steps_n, jnp.nan), jnp.zeros((), bool)
    begin = (0, start, optimizer.init(start), losses, learnt)
    _, tree, _, losses, _ = jax.lax.while_loop(unfinished, advance, begin)
    return tree, losses


def box_projection(before: Tree, bound: float | None) -> Callable[[Tree], Tree]:
    """Make the projection that keeps every entry within `bound` of `before` (None: identity)."""
    if bound is None:
        return lambda tree: tree
    return lambda tree: jax.tree.map(
        lambda new, old: old + jnp.clip(new - old, -bound, bound), tree, before
    )
