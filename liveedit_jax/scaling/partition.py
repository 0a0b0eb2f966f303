"""The partition of weights over a mesh: the mesh axes of the splits in the families' tables.

A weight that no table places is an error. The leading axis of a scan is never split, nor is a
dimension that is not a multiple of its axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.family import Split, Splits
from liveedit_jax.backbones.registry import find_decoder, find_part
from liveedit_jax.scaling.mesh import TENSOR, WEIGHT, batch_sharding

AXES: dict[Split, tuple] = {Split.COLUMN: (WEIGHT, TENSOR), Split.ROW: (TENSOR, WEIGHT)}
EDITOR_PART = "editor"
EDITOR: Splits = {"q": Split.COLUMN, "k": Split.COLUMN, "v": Split.COLUMN}


def backbone_splits(cfg: BackboneConfig) -> dict[str, Splits]:
    """Return the partition table of each part of a backbone's weights."""
    decoder = find_decoder(cfg.decoder).splits
    return {
        "vision": find_part(cfg.vision).splits,
        "projector": find_part(cfg.bridge).splits,
        "lower": decoder,
        "upper": decoder,
        "cross": decoder,
        "embed": {"embed": Split.ROW},
        "head": {"head": Split.COLUMN},
        "norm": {"norm": Split.WHOLE},
        "position": {"position": Split.WHOLE},
        "newline": {"newline": Split.WHOLE},
    }


def _names(path) -> list[str]:
    """Return the dictionary keys and fields in a path, without positions in tuples."""
    found = (getattr(key, "key", getattr(key, "name", None)) for key in path)
    return [name for name in found if isinstance(name, str)]


def _find_split(splits: Splits, names: list[str]) -> Split | None:
    """Find the split of the innermost module in a path that has one."""
    return next((splits[name] for name in reversed(names) if name in splits), None)


def _spec(
    mesh: Mesh, split: Split, names: list[str], shape: tuple[int, ...], gathered: bool = False
) -> P:
    if split is Split.WHOLE:
        return P()
    dims = AXES[split]
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


def _backbone_spec(
    mesh: Mesh, cfg: BackboneConfig, names: list[str], shape: tuple[int, ...], gathered: bool
) -> P:
    split = _find_split(backbone_splits(cfg).get(names[0], {}), names)
    if split is None:
        raise ValueError(f"no partition table places the weights {'/'.join(names)}")
    return _spec(mesh, split, names, shape, gathered)


def backbone_shardings(mesh: Mesh, cfg: BackboneConfig, weights):
    """Return the sharding of every leaf of a backbone's weights, quantised or not.

    Raises:
        ValueError: the partition tables do not place a leaf.
    """

    def place(path, leaf) -> NamedSharding:
        return NamedSharding(mesh, _backbone_spec(mesh, cfg, _names(path), leaf.shape, False))

    return jax.tree_util.tree_map_with_path(place, weights)


def editor_shardings(mesh: Mesh, tree):
    """Return the sharding of every leaf of an editor's params or of its `TrainState`.

    What EDITOR does not name is small and replicated.
    """

    def place(path, leaf) -> NamedSharding:
        names = _names(path)
        split = _find_split(EDITOR, names) or Split.WHOLE
        return NamedSharding(mesh, _spec(mesh, split, names, leaf.shape))

    return jax.tree_util.tree_map_with_path(place, tree)


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

        def hold(path, leaf: Array) -> Array:
            names, shape = [self.part, *_names(path)], leaf.shape
            if self.part == EDITOR_PART:
                spec = P()
            else:
                spec = _backbone_spec(self.mesh, self.cfg, names, shape, gathered=True)
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))

        return jax.tree_util.tree_map_with_path(hold, tree)


@dataclass(frozen=True)
class Placements:
    """The placement of each part of a backbone; inside a step an editor is gathered whole."""

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
