"""Device meshes: their axes, and how batches are split over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, fields

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from liveedit_jax.config import MeshConfig

AXES = tuple(field.name for field in fields(MeshConfig))
DATA, FSDP, TENSOR, EXPERT = AXES
BATCH = (DATA, FSDP, EXPERT)  # axes that samples are split over
WEIGHT = (FSDP, EXPERT)  # axes that one side of every matrix is split over


def parse_axes(text: str) -> MeshConfig:
    """Parse axes such as "fsdp=8,tensor=2".

    Raises:
        ValueError: an axis is unknown, or its size is not a positive number.
    """
    sizes = {}
    for part in text.split(","):
        name, _, n = part.partition("=")
        if name not in AXES or not n.isdigit() or int(n) < 1:
            raise ValueError(f"mesh axis {part!r}: NAME=DEVICES, with one of {', '.join(AXES)}")
        sizes[name] = int(n)
    return MeshConfig(**sizes)


def make_mesh(cfg: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Create a mesh of devices (None: all), on which physical neighbours are side by side.

    Raises:
        ValueError: the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = astuple(cfg)
    if math.prod(shape) != len(devices):
        axes = " x ".join(f"{name}={n}" for name, n in zip(AXES, shape, strict=True))
        raise ValueError(
            f"{axes} is {math.prod(shape)} devices, and there are {len(devices)}: "
            "change the mesh's axes to multiply to that"
        )
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(shape))


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding of arrays whose dimension `axis` is samples, split over the mesh."""
    return NamedSharding(mesh, P(*[None] * axis, BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that are replicated on every device."""
    return NamedSharding(mesh, P())
