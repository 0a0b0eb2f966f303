"""A repository whose rows are split over a mesh: the editor's own functions, in a shard_map.

Every device adds, scores and applies its own rows. Experts to store, queries and states are the
same everywhere; what crosses is scores, each device's K strongest, and the [B, T, D] residual.
Growing and reclaiming move rows between devices, are rare, and are left to the compiler: jit
`repository.grow` and `reclaim` with `placed` as `out_shardings`.
"""

from __future__ import annotations

from functools import partial

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.config import EditorConfig, StorageConfig
from liveedit_jax.editor import liveedit, repository
from liveedit_jax.editor.routing import route
from liveedit_jax.types import Expert, Query, Repository, Route

EXPERT = "expert"  # the mesh axis that rows are split over


def specs(repo: Repository) -> Repository:
    """How every leaf is split: arrays by rows, the clock and counts on every device."""
    return jax.tree.map(lambda leaf: P(EXPERT) if leaf.ndim else P(), repo)


def placed(mesh: Mesh, repo: Repository) -> Repository:
    """The same as shardings of `mesh`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(repo))


def init_repository(
    mesh: Mesh, cfg: EditorConfig, width: int, capacity: int, storage: StorageConfig
) -> Repository:
    """An empty repository, created where its rows stay.

    Raises:
        ValueError: `capacity` is not a multiple of the mesh's `expert` axis.
    """
    if capacity % mesh.shape[EXPERT]:
        raise ValueError(
            f"capacity={capacity} is not a multiple of the {mesh.shape[EXPERT]} devices that "
            "rows are split over"
        )
    make = partial(repository.init_repository, cfg, width, capacity, storage)
    return jax.jit(make, out_shardings=placed(mesh, jax.eval_shape(make)))()


def add_edits(
    mesh: Mesh,
    repo: Repository,
    expert: Expert,
    edit_id: Int[Array, " N"],
    valid: Bool[Array, " N"],
) -> tuple[Repository, Int[Array, " N"]]:
    """`repository.add_edits`, each device writing the rows it holds."""
    run = jax.shard_map(
        partial(repository.add_edits, axis=EXPERT),
        mesh=mesh,
        in_specs=(specs(repo), P(), P(), P()),
        out_specs=(specs(repo), P()),
        check_vma=False,
    )
    return run(repo, expert, edit_id, valid)


def route_and_apply(
    mesh: Mesh,
    cfg: EditorConfig,
    editor: liveedit.Prepared,
    repo: Repository,
    query: Query,
    hidden: Float[Array, "B T D"],
    role: Int[Array, "B T"],
) -> tuple[Float[Array, "B T D"], Route]:
    """The routed experts' residual and the routes, the same on every device."""

    def run(editor, repo, query, hidden, role):
        found = route(cfg, repo, query, axis=EXPERT)
        return liveedit.residual(cfg, editor, repo, hidden, role, found, EXPERT), found

    whole = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(P(), specs(repo), P(), P(), P()),
        out_specs=(P(), P()),
        check_vma=False,
    )
    return whole(editor, repo, query, hidden, role)
