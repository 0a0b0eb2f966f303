"""The partition of weights over a mesh: for each part, a table from modules to mesh axes.

COLUMN kernels [in, out] have their inputs split over the weight axes and their outputs over the
tensor axis, ROW kernels the other way round. Between a COLUMN and a ROW kernel of the same layer,
states thus stay where they are. Modules in no table are small and replicated. The leading axis of a
scan is never split, nor is a dimension that is not a multiple of its axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from liveedit_jax.backbone_config import (
    BackboneConfig,
    EfficientNetConfig,
    LlamaConfig,
    QFormerConfig,
)
from liveedit_jax.backbones import Backbone
from liveedit_jax.scaling.mesh import TENSOR, WEIGHT, batch_sharding

COLUMN, ROW = (WEIGHT, TENSOR), (TENSOR, WEIGHT)
Table = dict[str, tuple]

ATTENTION: Table = {"q": COLUMN, "k": COLUMN, "v": COLUMN, "o": ROW}
LLAMA: Table = ATTENTION | {"gate": COLUMN, "up": COLUMN, "down": ROW}
TRANSFORMER: Table = ATTENTION | {"fc1": COLUMN, "fc2": ROW}  # OPT, CLIP's and EVA's towers
QFORMER: Table = TRANSFORMER | {"linear": COLUMN}
PROJECTOR: Table = {"linear1": COLUMN, "linear2": ROW}
EMBEDDING: Table = {"embed": ROW, "head": COLUMN}
EDITOR: Table = {"q": COLUMN, "k": COLUMN, "v": COLUMN}


def backbone_tables(cfg: BackboneConfig) -> dict[str, Table]:
    """Return the table of each part of a backbone's weights."""
    decoder = LLAMA if isinstance(cfg.decoder, LlamaConfig) else TRANSFORMER
    return {
        "vision": {} if isinstance(cfg.vision, EfficientNetConfig) else TRANSFORMER,
        "projector": QFORMER if isinstance(cfg.bridge, QFormerConfig) else PROJECTOR,
        "lower": decoder,
        "upper": decoder,
        "embed": EMBEDDING,
        "head": EMBEDDING,
    }


def _names(path) -> list[str]:
    """Return the dictionary keys and fields in a path, without positions in tuples."""
    found = (getattr(key, "key", getattr(key, "name", None)) for key in path)
    return [name for name in found if isinstance(name, str)]


def _split(
    mesh: Mesh, table: Table, names: list[str], shape: tuple[int, ...], gathered: bool = False
) -> P:
    module = next((name for name in reversed(names) if name in table), None)
    if module is None or not shape:
        return P()
    dims = table[module]
    if names[-1] == "bias":
        dims = dims[-1:]
    elif len(shape) < 2:  # an optimiser's scalar, or a vector that goes with a matrix
        return P()
    dims = (None,) * (len(shape) - len(dims)) + dims

    def whole(axes, n: int):
        if gathered and axes == WEIGHT:
            return None
        axes_n = math.prod(mesh.shape[axis] for axis in ((axes,) if axes == TENSOR else axes or ()))
        return axes if axes is not None and axes_n > 1 and n % axes_n == 0 else None

    return P(*(whole(axes, n) for axes, n in zip(dims, shape, strict=True)))


def _shardings(mesh: Mesh, tree, table_of: Callable[[list[str]], Table]):
    def place(path, leaf) -> NamedSharding:
        names = _names(path)
        return NamedSharding(mesh, _split(mesh, table_of(names), names, leaf.shape))

    return jax.tree_util.tree_map_with_path(place, tree)


def backbone_shardings(mesh: Mesh, cfg: BackboneConfig, weights):
    """Return the sharding of every leaf of a backbone's weights, quantised or not."""
    tables = backbone_tables(cfg)
    return _shardings(mesh, weights, lambda names: tables.get(names[0], {}))


def editor_shardings(mesh: Mesh, tree):
    """Return the sharding of every leaf of an editor's params or of its `TrainState`."""
    return _shardings(mesh, tree, lambda names: EDITOR)


@dataclass(frozen=True)
class PartPlacement:
    """The placement of one part of a backbone on a mesh: a `backbones.placement.Placement`."""

    mesh: Mesh
    part: str
    cfg: BackboneConfig

    def states(self, x: Array) -> Array:
        """Split samples over the batch axes, and nothing else."""
        return jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))

    def weights(self, tree):
        """Gather weights over the weight axes; they stay split over the tensor axis."""
        table = backbone_tables(self.cfg).get(self.part, {})

        def hold(path, leaf: Array) -> Array:
            names = [self.part, *_names(path)]
            split = _split(self.mesh, table, names, leaf.shape, gathered=True)
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, split))

        return jax.tree_util.tree_map_with_path(hold, tree)


@dataclass(frozen=True)
class Placements:
    """The placement of each part of a backbone; parts in no table ("editor") are replicated."""

    mesh: Mesh
    cfg: BackboneConfig

    def __call__(self, part: str) -> PartPlacement:
        """Return the placement of one part."""
        return PartPlacement(self.mesh, part, self.cfg)


def backbone_on_mesh(mesh: Mesh, cfg: BackboneConfig) -> Backbone:
    """Create a backbone that runs on a mesh."""
    return Backbone(cfg, Placements(mesh, cfg))


def with_shardings(shapes, shardings):
    """Attach shardings to the shapes of arrays, as ahead-of-time compilation needs them."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
