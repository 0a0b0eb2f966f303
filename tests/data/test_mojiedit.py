"""The TFDS builder: counts, features, drawings; what it refuses."""

import numpy as np
import pytest

from liveedit_jax.data.facts import FACTS, SPLIT_SIZES, entities
from liveedit_jax.data.images import drawing
from liveedit_jax.data.mojiedit import build


def test_splits_and_features():
    builder = build()
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == SPLIT_SIZES
    source = builder.as_data_source("dev")
    assert len(source) == 100
    example = source[3]
    entity = entities()[int(example["id"])]
    assert example["entity"].decode() == entity.emoji and entity.split == "dev"
    assert {f: example["facts"][f].decode() for f in FACTS} == entity.facts
    for name in ("twemoji", "openmoji"):
        image = example["images"][name]
        assert image.dtype == np.uint8 and image.shape == (60, 60, 3)
        np.testing.assert_array_equal(image, drawing(entity.id, name, 60))


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match="no config of 61 pixels"):
        build(image_size=61)
