"""The editor's training on one device: a step and its batches, for `training.loop.train`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import Array, Float

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig, EditorTrainConfig
from liveedit_jax.data.benchmark_training import BenchmarkData
from liveedit_jax.data.editing import EditingBatch, EditingData
from liveedit_jax.training.editor import (
    Lower,
    jitted_editor_step,
    lower_from_features,
    lower_from_images,
    lower_states,
    row_features,
    stored_states,
)
from liveedit_jax.training.optimizers import TrainState
from liveedit_jax.training.states import StateCache

SHOWN = (0, 2, 3)  # row kinds whose pictures differ: the edit's, image generality's, locality's

TrainingData = EditingData | BenchmarkData


class Feed(NamedTuple):
    """The part of a batch's pictures that a step reads, and the way from there to states."""

    lower: Lower
    shown_of: Callable[[EditingBatch], Array]


def feed_features(pictures: Float[Array, "X P D"]) -> Feed:
    """Read vision features that are kept in memory, of every picture there is."""
    return Feed(lower_from_features, partial(row_features, pictures))


def feed_images(data: TrainingData) -> Feed:
    """Read the pixels of every batch; the vision tower runs in the step."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    return Feed(lower_from_images, partial(read_images, data, here))


def read_images(
    data: TrainingData, place: Sharding, rows: EditingBatch
) -> Float[Array, "*lead N 3 ..."]:
    """Read the three pictures of each sample; every process reads those that it holds.

    Args:
        data: where pictures come from.
        place: how the array lies on the devices.
        rows: the batch, or the stacked batches of a step.
    """
    shown = np.moveaxis(rows.picture[..., np.array(SHOWN), :], -2, -1)  # [..., N, 3]
    image = data.backbone.image_shape

    def pixels(part: tuple[slice, ...] | None) -> np.ndarray:
        some = shown[(part or ())[: shown.ndim]]
        return np.stack([data.picture(i) for i in some.flat]).reshape(*some.shape, *image)

    return jax.make_array_from_callback((*shown.shape, *image), place, pixels)


def on_one_device(
    backbone: Backbone,
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    weights: dict,
    data: TrainingData,
    feed: Feed,
    cache: StateCache | None = None,
) -> tuple[Callable, Callable[[int], tuple[Array, EditingBatch]]]:
    """Return what `train` needs beside a state: the step, and from a step's number to its batch.

    Args:
        backbone: the frozen model's functions.
        cfg: the editor.
        recipe: how it is trained.
        weights: of the frozen model.
        data: rows of a batch as a function of the step.
        feed: what steps read of the pictures.
        cache: a folder of states: those of its batches are computed once, and read from there.
    """
    lower = feed.lower if cache is None else stored_states

    def step(state: TrainState, batch: tuple[Array, EditingBatch]) -> tuple[TrainState, dict]:
        return jitted_editor_step(backbone, cfg, recipe, lower, weights, batch[0], state, batch[1])

    if cache is None:

        def batch_at(i: int) -> tuple[Array, EditingBatch]:
            rows = data.batch_at(i)
            return feed.shown_of(rows), rows

        return step, batch_at

    def states_of(rows: EditingBatch) -> Array:
        return lower_states(backbone, recipe, feed.lower, weights, feed.shown_of(rows), rows)

    return step, cache.reading(data.batch_at, states_of)
