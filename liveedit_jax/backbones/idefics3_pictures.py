"""Cuts pictures as the processor of Idefics3 and SmolVLM does: tiles, and the tokens among them.

A picture is enlarged or shrunk to `longest_edge`, stretched to whole tiles and cut; the last tile
is all of it. In front of each tile's vision tokens is a text that says where the tile lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from liveedit_jax.backbone_config import BackboneConfig, ChatTemplate, TilesConfig
from liveedit_jax.backbones.family import Tiling
from liveedit_jax.backbones.published import (
    PREPROCESSOR,
    PROCESSOR,
    Field,
    check_numbers,
    part_of,
    refuse_differences,
    template_of,
)
from liveedit_jax.data.layout import Layout, Run

Size = tuple[int, int]  # height, width in pixels
CLOSING = "<fake_token_around_image>"  # in front of each tile, and after the last
WHOLE = "<global-img>"
EDGE_MOST = 4096  # pixels along an edge, beyond which the original scales twice
CLASSES = [
    f"{name}{kind}" for name in ("Idefics3", "SmolVLM") for kind in ("ImageProcessor", "Processor")
]
# A chat template after its first token; the second of these is without its words about videos.
TEMPLATE = (
    "{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
VIDEO = "{% elif line['type'] == 'video' %}{{ '<video>' }}"
HEADS = ("<|im_start|>", "<|begin_of_text|>")


@dataclass(frozen=True, kw_only=True)
class SplitConfig(TilesConfig):
    """Tiles of `side` pixels out of a picture whose longer edge is `longest_edge` at first."""

    side: int
    longest_edge: int
    split: bool = True  # False: the whole picture alone
    resample: int = int(Image.Resampling.LANCZOS)

    @property
    def tiles_n(self) -> int:
        """Return N: those of a square picture, and the whole of it."""
        n = math.ceil(self.longest_edge / self.side) if self.split else 1
        return n * n + 1 if n > 1 else 1

    def drawing_size(self, side: int) -> int:
        """Return the longest edge, at which a square picture is cut."""
        return self.longest_edge


def _tiles(cfg: BackboneConfig) -> SplitConfig:
    assert isinstance(cfg.tiles, SplitConfig)
    return cfg.tiles


def first_size(tiles: SplitConfig, size: Size) -> Size:
    """Return the size that a picture is brought to before it is stretched."""
    (height, width), most = size, tiles.longest_edge
    ratio = width / height
    if width >= height:
        height = int(most / ratio)
        return max(height + height % 2, 1), most
    width = int(most * ratio)
    return most, max(width + width % 2, 1)


def whole_tiles(tiles: SplitConfig, size: Size) -> Size:
    """Return the size in whole tiles to which a picture of `first_size` is stretched."""
    (height, width), side = size, tiles.side
    if not tiles.split:
        return side, side

    def up(n: int) -> int:
        return math.ceil(n / side) * side

    ratio = width / height
    if width >= height:
        width = up(width)
        return up(int(width / ratio)), width
    height = up(height)
    return height, up(int(height * ratio))


def cut(cfg: BackboneConfig, picture: Image.Image) -> list[Image.Image]:
    """Cut a picture, on white where it is transparent, into tiles; the whole of it is the last."""
    tiles, side = _tiles(cfg), _tiles(cfg).side
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("RGB")

    def resized(picture: Image.Image, size: Size) -> Image.Image:
        return picture.resize((size[1], size[0]), Image.Resampling(tiles.resample))

    picture = resized(picture, first_size(tiles, (picture.height, picture.width)))
    picture = resized(picture, whole_tiles(tiles, (picture.height, picture.width)))
    if picture.size == (side, side):
        return [picture]
    found = [
        picture.crop((x, y, x + side, y + side))
        for y in range(0, picture.height, side)
        for x in range(0, picture.width, side)
    ]
    return [*found, resized(picture, (side, side))]


def layout(cfg: BackboneConfig, size: Size) -> Layout:
    """Return the layout of a picture of a size; CLOSING comes after it."""
    tiles = _tiles(cfg)
    height, width = whole_tiles(tiles, first_size(tiles, size))
    return _grid_layout(height // tiles.side, width // tiles.side, cfg.vision_n)


@lru_cache
def _grid_layout(rows: int, columns: int, vision_n: int) -> Layout:
    """Return the layout of a grid of tiles."""
    texts = []
    if rows * columns > 1:
        texts = [
            "\n" * (row > 1 and column == 1) + f"{CLOSING}<row_{row}_col_{column}>"
            for row in range(1, rows + 1)
            for column in range(1, columns + 1)
        ]
    texts.append("\n\n" * bool(texts) + CLOSING + WHOLE)
    every = np.arange(len(texts) * vision_n, dtype=np.int32).reshape(len(texts), vision_n)
    return tuple(Run(((text, True),), place) for text, place in zip(texts, every, strict=True))


SPLIT = Tiling(config=SplitConfig, cut=cut, layout=layout)


def processor_files(files: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configs of a checkpoint's image processor and of its whole processor."""
    whole = part_of(files, PROCESSOR)
    return part_of(whole, "image_processor") | part_of(files, PREPROCESSOR), whole


def read_pictures(files: Mapping[str, Any], side: int, vision_n: int) -> SplitConfig:
    """Read how a checkpoint's processor cuts pictures; absent fields are its class's defaults.

    Args:
        files: of the checkpoint.
        side: of a picture that the tower takes.
        vision_n: its vision tokens.

    Raises:
        ValueError: a processor of another class, or a field that is not supported; names it.
    """
    config, whole = processor_files(files)
    for found in (config.get("image_processor_type"), whole.get("processor_class")):
        if found is not None and str(found).removesuffix("Fast").removesuffix("Pil") not in CLASSES:
            raise ValueError(f"the processor {found} is not known: one of {', '.join(CLASSES)}")
    steps = ("convert_rgb", "resize", "rescale", "normalize", "pad")
    fields = [Field(f"do_{step}", True, True) for step in steps]
    fields.append(Field("rescale_factor", 1 / 255, 1 / 255))
    refuse_differences(config, fields, f"{PREPROCESSOR}: ")
    tile = {"longest_edge": 364} | part_of(config, "max_image_size")
    refuse_differences(tile, [Field("longest_edge", None, side)], "max_image_size.")
    refuse_differences(whole, [Field("image_seq_len", 169, vision_n)], f"{PROCESSOR}: ")
    size = {"longest_edge": 4 * 364} | part_of(config, "size")
    check_numbers(size, {"longest_edge": 1}, "size.")
    if set(size) != {"longest_edge"} or size["longest_edge"] > EDGE_MOST:
        raise ValueError(f"not supported: {PREPROCESSOR} has size {size}, not a longest_edge")
    split, resample = config.get("do_image_splitting", True), config.get("resample", 1)
    if type(split) is not bool or resample not in list(Image.Resampling):
        said = f"do_image_splitting {split!r}, resample {resample!r}"
        raise ValueError(f"not supported: {PREPROCESSOR} has {said}"[:150])
    return SplitConfig(side=side, longest_edge=size["longest_edge"], split=split, resample=resample)


def find_chat(files: Mapping[str, Any]) -> ChatTemplate | None:
    """Return a checkpoint's chat template where it is the one that is known; else None."""
    template = template_of(files).replace(VIDEO, "")
    for head in HEADS:
        if template == head + TEMPLATE:
            return ChatTemplate(
                before=f"{head}User:",
                between=CLOSING,
                without_image=" ",
                after="<end_of_utterance>\nAssistant:",
                bos=False,
            )
    return None
