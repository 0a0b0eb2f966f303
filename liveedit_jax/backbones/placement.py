"""Placement of states and weights on a mesh, inside a compiled step."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float


@runtime_checkable
class Placement(Protocol):
    """The placement of one part of a backbone (`scaling.partition`); frozen and hashable."""

    def states(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """Split the samples of states over the mesh."""

    def weights(self, tree):
        """Gather weights from the devices that hold parts of them."""


def place_states(place: Placement | None, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Apply `place.states`, or leave states as they are without a placement."""
    return x if place is None else place.states(x)


def place_weights(place: Placement | None, tree):
    """Apply `place.weights`, or leave weights as they are without a placement."""
    return tree if place is None else place.weights(tree)
