"""How a compiled step on a mesh is told where states and weights are."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Array, Float


class Placement(Protocol):
    """What `scaling.partition` says about one part of a backbone; frozen and hashable."""

    def states(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """States with their samples split over the mesh."""

    def weights(self, tree):
        """Weights as they are used: gathered from all devices that hold parts of them."""


def states_at(place: Placement | None, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """States where `place` wants them."""
    return x if place is None else place.states(x)


def weights_at(place: Placement | None, tree):
    """Weights where `place` wants them."""
    return tree if place is None else place.weights(tree)
