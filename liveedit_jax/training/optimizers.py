"""Optimisers and schedules, all from Optax."""

from __future__ import annotations

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from liveedit_jax.config import EditorTrainConfig, PretrainConfig

IMAGE_PARTS = ("norm1", "vision_query", "prompt_attention", "vision_attention")


class TrainState(flax.struct.PyTreeNode):
    """Weights, optimiser state and step."""

    params: dict
    optimizer: optax.OptState
    step: Int[Array, ""]
    skipped_n: Int[Array, ""]  # steps without effect, as their gradients were not finite
    skipped_in_a_row: Int[Array, ""]


def begin(optimizer: optax.GradientTransformation, params: dict) -> TrainState:
    """The state before the first step."""
    counters = (jnp.zeros((), jnp.int32) for _ in range(3))  # three arrays: all are donated
    return TrainState(params, optimizer.init(params), *counters)


def advance(optimizer: optax.GradientTransformation, state: TrainState, grads: dict) -> TrainState:
    """The state after a step along `grads`; where one is not finite, that step changes nothing."""
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(grads)]))

    def updated():
        updates, moments = optimizer.update(grads, state.optimizer, state.params)
        return optax.apply_updates(state.params, updates), moments

    # a branch: as a `where` of every leaf, XLA would repeat the whole conjunction in each of them
    params, moments = jax.lax.cond(finite, updated, lambda: (state.params, state.optimizer))
    skipped = (~finite).astype(jnp.int32)
    row = jnp.where(finite, 0, state.skipped_in_a_row + 1)
    return TrainState(params, moments, state.step + 1, state.skipped_n + skipped, row)


def editor_optimizer(cfg: EditorTrainConfig) -> optax.GradientTransformation:
    """Adam (betas 0.9, 0.999, eps 1e-8, no decay) with the paper's step cuts, or a cosine.

    With `cfg.muon`, matrices are updated by Muon instead (same schedule). `cfg.rate_...` multiply
    the steps of an editor's parts.

    The released schedule multiplies the rate by `lr_cut_rate` once for each cut that lies strictly
    before the step.
    """
    if cfg.cosine:
        rate = optax.warmup_cosine_decay_schedule(
            0.0 if cfg.warmup_steps else cfg.learning_rate,
            cfg.learning_rate,
            cfg.warmup_steps,
            cfg.steps_n,
        )
    else:
        rate = optax.piecewise_constant_schedule(
            cfg.learning_rate, {cut + 1: cfg.lr_cut_rate for cut in cfg.lr_cut_steps}
        )
    adam = optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)
    parts = [optax.contrib.muon(rate, consistent_rms=0.2) if cfg.muon else adam]
    read = (cfg.rate_extractor, cfg.rate_image, cfg.rate_sentinel)
    rates = (*read, cfg.rate_attention, cfg.rate_down, cfg.rate_up)
    if any(rate not in (None, 1.0) for rate in rates):
        parts.append(optax.stateless(partial(_scale_parts, cfg)))
    if cfg.clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(cfg.clip_norm))
    return optax.chain(*parts)


def _scale_parts(cfg: EditorTrainConfig, updates, params=None):
    """Steps of an editor's parts, each at its own multiple of the rate."""

    def scale(path, leaf):
        part, *inner = (key.key for key in path)
        if part in ("edit", "input"):
            own = cfg.rate_image if inner[0] in IMAGE_PARTS else None
            own = cfg.rate_sentinel if inner[0] == "sentinel" else own
            return leaf * (cfg.rate_extractor if own is None else own)
        if part in ("norm", "image", "text") or inner[0] == "norm":
            return leaf
        value_rate = cfg.rate_down if part == "down" else cfg.rate_up
        return leaf * (value_rate if "v" in inner else cfg.rate_attention)

    return jax.tree_util.tree_map_with_path(scale, updates)


def _is_matrix(path, leaf) -> bool:
    """True for the kernels of the layer stacks, [L, in, out]: what Muon is made for."""
    return leaf.ndim == 3 and "embed" not in jax.tree_util.keystr(path)


def pretrain_optimizer(cfg: PretrainConfig) -> optax.GradientTransformation:
    """Muon on the stacked layer kernels, Adam on everything else; warm-up, constant, linear decay.

    The constant phase lets a run be extended without having decayed in between.
    """
    decay_n = int(cfg.decay_share * cfg.steps_n)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, cfg.learning_rate, cfg.warmup_steps),
            optax.constant_schedule(cfg.learning_rate),
            optax.linear_schedule(cfg.learning_rate, 0.0, decay_n),
        ],
        [cfg.warmup_steps, cfg.steps_n - decay_n],
    )

    def muon_dims(params):
        dims = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: dims if _is_matrix(path, leaf) else None, params
        )

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            rate,
            weight_decay=cfg.weight_decay,
            muon_weight_dimension_numbers=muon_dims,
            consistent_rms=0.2,
        ),
    )
