"""Scores of editors on the dev split while they are trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from liveedit_jax.evaluation.cases import stream_cases
from liveedit_jax.evaluation.quick import quick_figures
from liveedit_jax.evaluation.subject import ModelParts
from liveedit_jax.training.optimizers import TrainState

DEV_SEED, DEV_N = 0, 100


def dev_figures(
    parts_of: Callable[[TrainState], ModelParts], image_size: int
) -> Callable[[TrainState], dict]:
    """Make a function that measures the dev split at 100 edits; its cases and features are kept.

    Args:
        parts_of: the model, with the editor as training has it.
        image_size: what drawings are drawn at.
    """
    cases = cache(partial(stream_cases, "dev", DEV_SEED, DEV_N, image_size))
    seen: dict = {}

    def evaluate(state: TrainState) -> dict:
        found = quick_figures(parts_of(state), cases(), seen)
        return {f"dev/{name}": value for name, value in found.items()}

    return evaluate
