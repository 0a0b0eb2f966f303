"""Find drawings of different entities that are identical, or nearly so.

    python -m experiments.checks.pictures [--size 60] [--least 0.99]

Within each source, every two drawings are compared by the cosine of 255 - pixels, so that the white
background does not count. Identical drawings are an error: two entities would share a picture.
Nearly identical ones are printed; routing can hardly tell them apart.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from jaxtyping import UInt8

from liveedit_jax.data.facts import SOURCES, entities
from liveedit_jax.data.images import drawing


def similar_pairs(
    pictures: UInt8[np.ndarray, "X S S 3"], least: float
) -> list[tuple[int, int, float]]:
    """List the pairs i < j whose cosine is above `least`, by falling cosine."""
    ink = 255.0 - pictures.reshape(len(pictures), -1).astype(np.float32)
    ink /= np.maximum(np.linalg.norm(ink, axis=1, keepdims=True), 1e-6)
    cosine = np.triu(ink @ ink.T, 1)
    pairs = [(int(i), int(j), float(cosine[i, j])) for i, j in np.argwhere(cosine > least)]
    return sorted(pairs, key=lambda pair: -pair[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=60, help="pixels a side")
    parser.add_argument("--least", type=float, default=0.99, help="cosine of nearly identical ones")
    args = parser.parse_args()
    identical_n = 0
    for source in SOURCES:
        pictures = np.stack([drawing(entity.id, source, args.size) for entity in entities()])
        pairs = similar_pairs(pictures, args.least)
        same = [np.array_equal(pictures[i], pictures[j]) for i, j, _ in pairs]
        identical_n += sum(same)
        for (i, j, cosine), is_same in zip(pairs, same, strict=True):
            names = " | ".join(
                f"{e.emoji} {e.facts['name']}" for e in (entities()[i], entities()[j])
            )
            print(f"{source:<9} {'identical' if is_same else f'{cosine:9.5f}'} {names}")
        print(f"{source}: {sum(same)} identical pairs, {len(pairs) - sum(same)} nearly identical")
    sys.exit(f"{identical_n} pairs of entities share a picture" if identical_n else 0)


if __name__ == "__main__":
    main()
