"""A repository whose rows are split over a mesh: the editor's functions inside a shard_map.

Rows are split over the expert and tensor axes, queries over the data and fsdp axes. Every device
adds, scores and applies its own rows. For a query, devices exchange scores, their K strongest rows,
and the [B, T, D] residual (for generation: the K bodies instead). Growing and reclaiming are rare
and move rows between devices, which is left to the compiler: jit `repository.grow` and `reclaim`
with `row_shardings` as `out_shardings`.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.config import EditorConfig, StorageConfig
from liveedit_jax.editor import liveedit, repository
from liveedit_jax.editor.routing import gather_experts, route
from liveedit_jax.scaling.mesh import DATA, EXPERT, FSDP, TENSOR
from liveedit_jax.types import AnyArray, Expert, Query, Repository, Route


def row_axes(mesh: Mesh) -> tuple[str, ...]:
    """Return the mesh axes that rows are split over."""
    return tuple(axis for axis in (EXPERT, TENSOR) if axis in mesh.axis_names)


def _query_spec(mesh: Mesh) -> P:
    axes = tuple(axis for axis in (DATA, FSDP) if axis in mesh.axis_names)
    return P(axes) if axes else P()


def row_specs(mesh: Mesh, repo: Repository) -> Repository:
    """Return each leaf's partition: arrays are split by rows, scalars are replicated."""
    return jax.tree.map(lambda leaf: P(row_axes(mesh)) if leaf.ndim else P(), repo)


def row_shardings(mesh: Mesh, repo: Repository) -> Repository:
    """Return each leaf's sharding: `row_specs` on the mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), row_specs(mesh, repo))


def init_repository(
    mesh: Mesh, cfg: EditorConfig, width: int, capacity: int, storage: StorageConfig
) -> Repository:
    """Create an empty repository, split over the mesh.

    Raises:
        ValueError: `capacity` is not a multiple of the devices that rows are split over.
    """
    devices_n = math.prod(mesh.shape[axis] for axis in row_axes(mesh))
    if capacity % devices_n:
        raise ValueError(
            f"capacity={capacity} is not a multiple of the {devices_n} devices that "
            "rows are split over"
        )
    make = partial(repository.init_repository, cfg, width, capacity, storage)
    return jax.jit(make, out_shardings=row_shardings(mesh, jax.eval_shape(make)))()


def add_edits(
    mesh: Mesh,
    repo: Repository,
    expert: Expert,
    edit_id: Int[Array, " N"],
    valid: Bool[Array, " N"],
) -> tuple[Repository, Int[Array, " N"]]:
    """Append N experts as `repository.add_edits` does; each device writes the rows it holds."""
    run = jax.shard_map(
        partial(repository.add_edits, axis=row_axes(mesh)),
        mesh=mesh,
        in_specs=(row_specs(mesh, repo), P(), P(), P()),
        out_specs=(row_specs(mesh, repo), P()),
        check_vma=False,
    )
    return run(repo, expert, edit_id, valid)


def route_and_apply(
    mesh: Mesh,
    cfg: EditorConfig,
    editor: liveedit.PreparedEditor,
    repo: Repository,
    query: Query,
    hidden: Float[Array, "B T D"],
    role: Int[AnyArray, "B T"],
) -> tuple[Float[Array, "B T D"], Route]:
    """Route B queries and compute the routed experts' residual."""
    axes, asked = row_axes(mesh), _query_spec(mesh)

    def run(editor, repo, query, hidden, role):
        found = route(cfg, repo, query, axis=axes)
        return liveedit.residual(cfg, editor, repo, hidden, role, found, axes), found

    whole = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(P(), row_specs(mesh, repo), asked, asked, asked),
        out_specs=(asked, asked),
        check_vma=False,
    )
    return whole(editor, repo, query, hidden, role)


def route_and_gather(
    mesh: Mesh, cfg: EditorConfig, norm: dict, repo: Repository, query: Query
) -> tuple[liveedit.RoutedExperts, Route]:
    """Route B queries and bring each one's K experts to its device, for generation."""
    axes, asked = row_axes(mesh), _query_spec(mesh)

    def run(repo, query):
        found = route(cfg, repo, query, axis=axes)
        weight, down, up = gather_experts(repo, found, axes)
        held = (weight > 0)[..., None, None]
        own = weight, jnp.where(held, down, 0.0), jnp.where(held, up, 0.0)
        return jax.lax.psum(own, axes), found

    whole = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(row_specs(mesh, repo), asked),
        out_specs=(asked, asked),
        check_vma=False,
    )
    experts, found = whole(repo, query)
    return liveedit.RoutedExperts(norm, *experts), found
