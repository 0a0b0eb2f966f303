"""How alike an entity's two drawings are."""

import numpy as np
import pytest

from liveedit_jax.evaluation.knowledge import other_drawing_found


def test_other_drawings_count_where_they_beat_the_wrong_ones():
    # three entities along axes of their own; the third's second drawing looks like the first's
    images = np.array([[4, 0], [4, 0], [0, 4], [0, 4], [1, 1], [3, 0]], float)
    scores = images[0::2] @ images[1::2].T
    assert scores.tolist() == [[16, 0, 12], [0, 16, 0], [4, 4, 3]]
    assert other_drawing_found(images, 1e-3) == pytest.approx(2 / 3)
    assert other_drawing_found(images, 0.9) == 1.0
    assert other_drawing_found(images * [1, 0], 1e-3) == pytest.approx(1 / 3)
