"""Every entity has pictures of its own."""

import numpy as np

from experiments.checks.pictures import similar_pairs
from liveedit_jax.data.facts import SOURCES, entities
from liveedit_jax.data.images import drawing


def test_no_picture_stands_for_two_entities():
    stands_for = {}
    for entity in entities():
        for source in SOURCES:
            pixels = drawing(entity.id, source, 60).tobytes()
            other = stands_for.setdefault(pixels, entity.emoji)
            assert other == entity.emoji and pixels.strip(b"\xff")
    assert len(stands_for) == len(SOURCES) * len(entities())


def test_likeness_does_not_count_the_white_around_drawings():
    pictures = np.full((4, 8, 8, 3), 255, np.uint8)
    pictures[0, 2], pictures[1, 2], pictures[2, 5], pictures[3, 2, :7] = 0, 0, 0, 0
    assert [(i, j) for i, j, _ in similar_pairs(pictures, 0.9)] == [(0, 1), (0, 3), (1, 3)]
    assert [(i, j) for i, j, _ in similar_pairs(pictures, 0.99)] == [(0, 1)]
