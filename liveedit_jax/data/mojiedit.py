"""The TFDS builder of MojiEdit: 1,836 entities, their 13 facts and their two drawings.

    builder = MojiEdit(data_dir=..., config="60px", file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source("eval")

Nothing is downloaded and nothing needs TensorFlow: drawings and facts come from installed packages.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from liveedit_jax.cache import cache_folder
from liveedit_jax.data.facts import FACTS, SOURCES, SPLITS, split_entities
from liveedit_jax.data.images import drawing_png

Builder = TypeVar("Builder", bound=tfds.core.DatasetBuilder)
_DESCRIPTION = """Lifelong editing of what a vision-language model knows about pictures. An entity
is an emoji; its image is the Twemoji drawing, its image rephrase the OpenMoji drawing."""
_CITATION = """Twemoji graphics: Copyright Twitter, Inc and other contributors, CC-BY 4.0.
OpenMoji graphics: https://openmoji.org, CC BY-SA 4.0. Names: Unicode CLDR."""


@dataclass
class MojiEditConfig(tfds.core.BuilderConfig):
    """A variant of the data set: the size of its drawings in pixels."""

    image_size: int = 60


class MojiEdit(tfds.core.GeneratorBasedBuilder):
    """Entities with facts and drawings, in four splits; `edit_stream` draws records from them."""

    name = "mojiedit"
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "1,836 entities, 13 facts, two drawings each."}
    BUILDER_CONFIGS = [MojiEditConfig(name=f"{side}px", image_size=side) for side in (60, 224, 336)]

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.image_size
        features = {
            "id": tfds.features.Scalar(np.int32),
            "entity": tfds.features.Text(),
            "locked_fact": tfds.features.Text(),
            "held_out": tfds.features.Text(),
            "facts": {fact: tfds.features.Text() for fact in FACTS},
            "images": {
                source: tfds.features.Image(shape=(side, side, 3), encoding_format="png")
                for source in SOURCES
            },
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            citation=_CITATION,
            homepage="https://openmoji.org",
        )

    def _split_generators(self, dl_manager) -> dict:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        side = self.builder_config.image_size
        for entity in split_entities(split):
            yield (
                entity.id,
                {
                    "id": entity.id,
                    "entity": entity.emoji,
                    "locked_fact": entity.locked_fact,
                    "held_out": entity.held_out or "",
                    "facts": dict(entity.facts),
                    "images": {
                        source: _drop_alpha(drawing_png(entity, source, side)) for source in SOURCES
                    },
                },
            )


def _drop_alpha(data: bytes) -> bytes:
    """Re-encode a PNG without its alpha channel."""
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(out, format="PNG")
    return out.getvalue()


def default_data_dir() -> Path:
    """Return `$TFDS_DATA_DIR`, or `tfds` in the cache folder."""
    named = os.environ.get("TFDS_DATA_DIR")
    return Path(named) if named else cache_folder() / "tfds"


def build(data_dir: str | Path | None = None, image_size: int = 60) -> MojiEdit:
    """Return MojiEdit's builder, prepared now where that was not done before.

    Raises:
        ValueError: no config has this image size.
    """
    sizes = [config.image_size for config in MojiEdit.BUILDER_CONFIGS]
    if image_size not in sizes:
        raise ValueError(f"MojiEdit has no config of {image_size} pixels; sizes: {sizes}")

    def builder() -> MojiEdit:
        return MojiEdit(
            data_dir=str(data_dir or default_data_dir()),
            config=f"{image_size}px",
            file_format="array_record",
        )

    return prepare_builder(builder)


def prepare_builder(builder: Callable[[], Builder]) -> Builder:
    """Prepare a builder, even while other processes prepare the same rows."""
    first = builder()
    try:
        first.download_and_prepare(file_format="array_record")
    except FileExistsError:  # another process was faster
        return builder()
    return first
