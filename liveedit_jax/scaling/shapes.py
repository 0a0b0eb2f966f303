"""The shapes of a pod's arguments, each with its sharding: what is compiled when nothing is run."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.quantise import quantise
from liveedit_jax.config import EditorTrainConfig, StorageConfig
from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.editor import repository
from liveedit_jax.scaling import repository as sharded
from liveedit_jax.scaling.mesh import everywhere, split_batch
from liveedit_jax.scaling.partition import editor_shardings, placed_shapes
from liveedit_jax.scaling.steps import Pod
from liveedit_jax.training.editor import init_state
from liveedit_jax.types import Batch

TILES_N = 5  # LLaVA-NeXT: the whole picture and 2 x 2
ROUND = 64  # lengths are rounded up to it


def weight_shapes(pod: Pod, int8: bool = False):
    """A frozen backbone in bfloat16, or with kernels in 8 bits."""

    def make():
        params = Backbone(pod.config.backbone).init(jax.random.key(0))
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        return quantise(half) if int8 else half

    shapes = jax.eval_shape(make)
    return placed_shapes(shapes, pod.weight_shardings(shapes))


def state_shapes(pod: Pod, recipe: EditorTrainConfig):
    """The editor's weights and moments, float32."""
    backbone = Backbone(pod.config.backbone)
    make = partial(init_state, backbone, pod.config.editor, recipe, jax.random.key(0))
    shapes = jax.eval_shape(make)
    return placed_shapes(shapes, editor_shardings(pod.mesh, shapes))


def repository_shapes(pod: Pod, capacity: int, storage: StorageConfig):
    """A repository of `capacity` rows."""
    make = partial(
        repository.init_repository, pod.config.editor, pod.config.backbone.width, capacity, storage
    )
    shapes = jax.eval_shape(make)
    return placed_shapes(shapes, sharded.placed(pod.mesh, shapes))


def length_of(pod: Pod) -> int:
    """T: head, picture, longest prompt and answer."""
    cfg, budget = pod.config.backbone, pod.config.dataset.budget
    vision_n = cfg.vision_n
    if cfg.grids:  # every tile's rows, and a newline after each row of the 2 x 2
        vision_n = TILES_N * vision_n + 2 * math.isqrt(vision_n)
    return -(-(1 + vision_n + budget.prompt_n + budget.answer_n) // ROUND) * ROUND


def _pixels(pod: Pod, *lead: int):
    cfg = pod.config.backbone
    side, tiles = cfg.vision.image_size, (TILES_N,) if cfg.grids else ()
    shape = (*lead, *tiles, side, side, 3)
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=split_batch(pod.mesh))


def batch_shapes(pod: Pod, n: int) -> Batch:
    """N requests or queries."""
    place = split_batch(pod.mesh)
    token = jax.ShapeDtypeStruct((n, length_of(pod)), jnp.int32, sharding=place)
    role = jax.ShapeDtypeStruct(token.shape, jnp.int8, sharding=place)
    tiled = token if pod.config.backbone.grids else None
    return Batch(token, role, _pixels(pod, n), place=tiled)


def lowered(pod: Pod, step: str, n: int, capacity: int, storage: StorageConfig, int8: bool):
    """One of the pod's steps for N samples, ready to be compiled.

    Args:
        pod: preset and mesh.
        step: train, edit, query or generate.
        n: samples of the whole mesh.
        capacity: rows of the repository.
        storage: how it keeps them.
        int8: frozen kernels in 8 bits.
    """
    weights, whole = weight_shapes(pod, int8), everywhere(pod.mesh)
    recipe = replace(pod.config.editor_train, batch_n=n)
    state = state_shapes(pod, recipe)
    if step == "train":
        place = split_batch(pod.mesh, 1)
        token = jax.ShapeDtypeStruct((4, n, length_of(pod)), jnp.int32, sharding=place)
        role = jax.ShapeDtypeStruct(token.shape, jnp.int8, sharding=place)
        picture = jax.ShapeDtypeStruct((4, n), jnp.int32, sharding=place)
        images = _pixels(pod, n, 3)
        return pod.train_step(recipe, state).lower(
            weights, images, state, EditingBatch(token, role, picture)
        )
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
