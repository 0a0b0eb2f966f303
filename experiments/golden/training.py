"""One training batch of the released code: losses, gradients, residuals, logits and Adam."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.golden.case import (
    ADAM_TOLERANCE,
    MODEL_TOLERANCE,
    MODULE_TOLERANCE,
    Arrays,
    Case,
)
from experiments.golden.rows import stack, states
from experiments.golden.training_inputs import Step, read_step
from liveedit_jax.editor import extractor, liveedit, objective
from liveedit_jax.editor.attention import normalise
from liveedit_jax.editor.convert import to_released
from liveedit_jax.editor.routing import similarity
from liveedit_jax.training.optimizers import editor_optimizer

LOGS = {
    "Reliability loss": lambda e, r: e["reliability"],
    "Generality loss": lambda e, r: sum(e["generality"]),
    "Locality loss": lambda e, r: e["locality"],
    "MoE soft routing relative loss": lambda e, r: r["soft_relative"],
    "MoE soft routing abstract loss": lambda e, r: r["soft_absolute"],
    "MoE soft routing loss": lambda e, r: r["soft_relative"] + r["soft_absolute"],
    "MoE hard routing neighbor loss": lambda e, r: r["hard_neighbour"],
    "MoE hard routing prototype loss": lambda e, r: r["hard_other"],
    "MoE hard routing loss": lambda e, r: r["hard_neighbour"] + r["hard_other"],
}
