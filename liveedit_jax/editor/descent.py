"""Gradient descent on one request until it is learnt, for editors that optimise edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Tree = TypeVar("Tree")


def descend(
    loss: Callable[[Tree], Float[Array, ""]],
    start: Tree,
    optimizer: optax.GradientTransformation,
    steps_n: int,
    stop_loss: float,
    project: Callable[[Tree], Tree] = lambda tree: tree,
) -> tuple[Tree, Float[Array, " steps"]]:
    """Descend for at most `steps_n` steps with a fresh optimiser; stop at a loss of `stop_loss`.

    Args:
        loss: a function of the weights.
        start: the weights to begin with.
        optimizer: made anew for this request.
        steps_n: the most steps.
        stop_loss: no step is taken after a loss of at most this.
        project: projects the weights onto the allowed ones after every step.

    Returns:
        The weights, and the loss before each step; NaN for steps that were not taken.
    """
    gradient_of = jax.value_and_grad(loss)

    def unfinished(carry):
        step, _, _, losses = carry
        last = losses[jnp.maximum(step - 1, 0)]
        return (step < steps_n) & ((step == 0) | (last > stop_loss))

    def advance(carry):
        step, tree, moments, losses = carry
        value, gradient = gradient_of(tree)
        change, moments = optimizer.update(gradient, moments, tree)
        tree = project(optax.apply_updates(tree, change))
        return step + 1, tree, moments, losses.at[step].set(value)

    begin = (0, start, optimizer.init(start), jnp.full(steps_n, jnp.nan))
    _, tree, _, losses = jax.lax.while_loop(unfinished, advance, begin)
    return tree, losses


def box_projection(before: Tree, bound: float | None) -> Callable[[Tree], Tree]:
    """Make the projection that keeps every entry within `bound` of `before` (None: identity)."""
    if bound is None:
        return lambda tree: tree
    return lambda tree: jax.tree.map(
        lambda new, old: old + jnp.clip(new - old, -bound, bound), tree, before
    )
