"""Training of an editor on a mesh: the step, state and batches that `training.loop.train` takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax.sharding import NamedSharding

from liveedit_jax.config import EditorTrainConfig
from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.scaling.mesh import BATCH, batch_sharding
from liveedit_jax.scaling.partition import editor_shardings
from liveedit_jax.scaling.processes import put_on_mesh
from liveedit_jax.scaling.steps import Pod
from liveedit_jax.training.editor import stored_states
from liveedit_jax.training.one_device import TrainingData, read_images
from liveedit_jax.training.optimizers import TrainState
from liveedit_jax.training.states import StateCache


def check_batch(pod: Pod, recipe: EditorTrainConfig) -> None:
    """Refuse batches that the mesh cannot split.

    Raises:
        ValueError: a batch is not a multiple of the number of devices that it is split over.
    """
    devices_n = int(np.prod([pod.mesh.shape[axis] for axis in BATCH]))
    for name, n in (("batch_n", recipe.batch_n), ("routing_n", recipe.routing_n)):
        if n is not None and n % devices_n:
            raise ValueError(
                f"{name}={n} samples cannot be split over {devices_n} devices "
                f"({' x '.join(BATCH)}): choose a multiple of {devices_n}"
            )


def set_up_on_mesh(
    pod: Pod,
    recipe: EditorTrainConfig,
    weights: dict,
    state: TrainState,
    data: TrainingData,
    cache: Callable[[NamedSharding], StateCache] | None = None,
) -> tuple[Callable, TrainState, Callable[[int], tuple]]:
    """Build the arguments of `train` for a mesh: the step, the state, and the batches by number.

    Every process calls it with the same arguments. It has all weights, draws the same batches as
    the others, and puts its own part of each on its devices.

    Args:
        pod: preset and mesh.
        recipe: how the editor is trained.
        weights: the backbone's weights, on the host.
        state: the training state, on the host.
        data: the training data.
        cache: opens a cache of states for their sharding; steps then read states from it instead
            of computing them. None: states are computed from images.

    Raises:
        ValueError: the mesh cannot split the recipe's batches.
    """
    check_batch(pod, recipe)
    placed = put_on_mesh(weights, pod.weight_shardings(weights))
    begun = put_on_mesh(state, editor_shardings(pod.mesh, state))
    lead_n = int(recipe.accumulate_n > 1)  # several batches are stacked
    by_image, by_row = batch_sharding(pod.mesh, lead_n), batch_sharding(pod.mesh, lead_n + 1)
    images_of = partial(read_images, data, by_image)

    if cache is None:
        run = pod.train_step(recipe, state)

        def batch_at(i: int) -> tuple[jax.Array, EditingBatch]:
            rows = data.batch_at(i)
            return images_of(rows), put_on_mesh(rows, by_row)
    else:
        run, states = pod.train_step(recipe, state, stored_states), pod.states(recipe)

        def states_of(rows: EditingBatch) -> jax.Array:
            return states(placed, images_of(rows), put_on_mesh(rows, by_row))

        read = cache(by_image).reading(data.batch_at, states_of)

        def batch_at(i: int) -> tuple[jax.Array, EditingBatch]:
            hidden, rows = read(i)
            return hidden, put_on_mesh(rows, by_row)

    def step(state: TrainState, batch: tuple[jax.Array, EditingBatch]):
        seen, rows = batch  # pictures, or states
        return run(placed, seen, state, rows)

    return step, begun, batch_at
