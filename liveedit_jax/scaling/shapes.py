"""The shapes and shardings of a pod's arguments, for ahead-of-time compilation of its steps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.quantise import quantise
from liveedit_jax.config import EditorTrainConfig, StorageConfig
from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.data.images import square_layout
from liveedit_jax.data.layout import tokens_n
from liveedit_jax.data.tokenise import row_length
from liveedit_jax.editor import repository
from liveedit_jax.scaling import repository as sharded
from liveedit_jax.scaling.mesh import batch_sharding, replicated
from liveedit_jax.scaling.partition import editor_shardings, with_shardings
from liveedit_jax.scaling.steps import Pod
from liveedit_jax.training.editor import init_state
from liveedit_jax.types import Batch


def weight_shapes(pod: Pod, int8: bool = False):
    """Return the shapes of a frozen backbone in bfloat16, or with kernels in 8 bits."""

    def make():
        weights = Backbone(pod.config.backbone).init(jax.random.key(0))
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
        return quantise(half) if int8 else half

    shapes = jax.eval_shape(make)
    return with_shardings(shapes, pod.weight_shardings(shapes))


def state_shapes(pod: Pod, recipe: EditorTrainConfig):
    """Return the shapes of an editor's training state, float32."""
    backbone = Backbone(pod.config.backbone)
    make = partial(init_state, backbone, pod.config.editor, recipe, jax.random.key(0))
    shapes = jax.eval_shape(make)
    return with_shardings(shapes, editor_shardings(pod.mesh, shapes))


def repository_shapes(pod: Pod, capacity: int, storage: StorageConfig):
    """Return the shapes of a repository of `capacity` rows."""
    make = partial(
        repository.init_repository, pod.config.editor, pod.config.backbone.width, capacity, storage
    )
    shapes = jax.eval_shape(make)
    return with_shardings(shapes, sharded.row_shardings(pod.mesh, shapes))


def sequence_length(pod: Pod) -> int:
    """T: head, a square picture, longest prompt and answer."""
    picture_n = tokens_n(square_layout(pod.config.backbone))
    return row_length(pod.config.dataset.budget, picture_n)


def _pixels(pod: Pod, dtype, *lead: int, axis: int = 0):
    shape = (*lead, *pod.config.backbone.image_shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(pod.mesh, axis))


def batch_shapes(pod: Pod, n: int) -> Batch:
    """Return the shapes of N requests or queries."""
    place = batch_sharding(pod.mesh)
    token: Any = jax.ShapeDtypeStruct((n, sequence_length(pod)), jnp.int32, sharding=place)
    role: Any = jax.ShapeDtypeStruct(token.shape, jnp.int8, sharding=place)
    tiled = None if pod.config.backbone.tiles is None else token
    return Batch(token, role, _pixels(pod, jnp.float32, n), place=tiled)


def training_shapes(pod: Pod, recipe: EditorTrainConfig):
    """Return the shapes of the pictures and rows of a training step."""
    lead = (recipe.accumulate_n,) if recipe.accumulate_n > 1 else ()
    place, n = batch_sharding(pod.mesh, len(lead) + 1), recipe.batch_n

    def rows(*shape: int, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((*lead, 4, n, *shape), dtype, sharding=place)

    token = rows(sequence_length(pod))
    tiled = None if pod.config.backbone.tiles is None else token
    batch = EditingBatch(token, rows(sequence_length(pod), dtype=jnp.int8), rows(), tiled)
    return _pixels(pod, jnp.float32, *lead, n, 3, axis=len(lead)), batch


def lower_step(
    pod: Pod,
    step: str,
    n: int,
    capacity: int,
    storage: StorageConfig,
    int8: bool,
    accumulate_n: int = 1,
):
    """Lower one of the pod's steps for N samples, ready to be compiled.

    Args:
        pod: preset and mesh.
        step: train, edit, query or generate.
        n: samples on the whole mesh.
        capacity: rows of the repository.
        storage: the storage format of the repository.
        int8: whether frozen kernels are in 8 bits.
        accumulate_n: batches into which the samples of a training step are divided.

    Raises:
        ValueError: the step has another name.
    """
    weights, whole = weight_shapes(pod, int8), replicated(pod.mesh)
    recipe = replace(pod.config.editor_train, batch_n=n // accumulate_n, accumulate_n=accumulate_n)
    state = state_shapes(pod, recipe)
    if step == "train":
        images, rows = training_shapes(pod, recipe)
        return pod.train_step(recipe, state).lower(weights, images, state, rows)
    repo, batch = repository_shapes(pod, capacity, storage), batch_shapes(pod, n)
    known = (weights, state.params, repo, batch)

    def per_sample(*shape: int, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((n, *shape), dtype, sharding=whole)

    if step == "edit":
        run = jax.jit(pod.edit, donate_argnums=2)
        return run.lower(*known, per_sample(), per_sample(dtype=jnp.bool_))
    answer_n = pod.config.dataset.budget.answer_n
    if step == "query":
        return jax.jit(pod.query).lower(*known, per_sample(answer_n))
    if step == "generate":
        return jax.jit(pod.generate, static_argnums=4).lower(*known, answer_n)
    raise ValueError(f"step={step!r}: train, edit, query or generate")
