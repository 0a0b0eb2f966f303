"""The cache of frozen parts: several processes may fill it at once, and it mends a torn folder."""

import numpy as np
import pytest

from liveedit_jax.model_io import frozen
from liveedit_jax.model_io.frozen import cache_parts
from liveedit_jax.model_io.weights import load_weights, save_weights

PARTS = {"tower": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}


@pytest.mark.parametrize("before", ["nothing", "torn", "another process"])
def test_the_folder_is_whole_whatever_was_there(tmp_path, monkeypatch, before):
    folder = tmp_path / "smol"
    if before == "torn":
        (folder / "weights").mkdir(parents=True)

    def save(own, *rest):
        save_weights(own, *rest)
        if before == "another process":
            save_weights(folder, *rest)

    monkeypatch.setattr(frozen, "save_weights", save)
    cache_parts(PARTS, folder)
    found, recipe = load_weights(folder)
    np.testing.assert_array_equal(found["tower"]["kernel"], PARTS["tower"]["kernel"])
    assert recipe["config"] == "smol" and list(tmp_path.iterdir()) == [folder]
