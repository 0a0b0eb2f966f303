"""Layouts: the tokens of pictures among those of text, their roles and their features."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers

from liveedit_jax.backbone_config import ChatTemplate, TilesConfig
from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.backbones import registry
from liveedit_jax.backbones.family import Tiling
from liveedit_jax.config import LengthBudget
from liveedit_jax.data.images import preprocess, square_layout
from liveedit_jax.data.layout import Run, join_layouts, picture_row, single_layout, tokens_n
from liveedit_jax.data.tokenise import Example, tokenise
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.types import Role

PAD, PRE, VISION, PROMPT, ANSWER = Role
SPECIALS = ["<pad>", "<bos>", "<eos>", "<open>", "<close>", "<head>"]


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """A tokenizer with one token for each letter, after six special ones."""
    words = {name: i for i, name in enumerate([*SPECIALS, *"abc? <>openclos"])}
    words = {name: i for i, name in enumerate(dict.fromkeys(words))}
    inner = Inner(models.BPE(vocab=words, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.add_special_tokens(SPECIALS)
    inner.encode_special_tokens = True
    return Tokenizer(inner)


def ids(tokenizer: Tokenizer, *pieces: str) -> list[int]:
    return [tokenizer.inner.token_to_id(piece) for piece in pieces]


TWO = (
    Run((("<open>a", True),), np.asarray([2, 3], np.int32)),
    Run((("<open>", True),), np.asarray([0], np.int32)),
)


def test_texts_of_the_processor_stand_between_the_runs(letters):
    row = picture_row(letters, 0, TWO)
    want = ids(letters, "<open>", "a", "<pad>", "<pad>", "<open>", "<pad>")
    assert row.token == want
    assert row.role == [PRE, PRE, VISION, VISION, PRE, VISION]
    assert row.place == [0, 0, 2, 3, 0, 0]
    assert tokens_n(TWO) >= len(want)


def test_several_pictures_and_a_users_text_between_them(letters):
    joined = join_layouts([("b<open>", TWO), ("c", single_layout(2))], "<close>", 5)
    row = picture_row(letters, 0, joined)
    kinds = [(PROMPT, len("b<open>")), (PRE, 2), (VISION, 2), (PRE, 1), (VISION, 1), (PRE, 1)]
    kinds += [(PROMPT, 1), (VISION, 2)]
    assert row.role == [role for role, n in kinds for _ in range(n)]
    assert row.token[:7] == ids(letters, *"b<open>")  # a user's text is never a special token
    assert row.token[13:15] == ids(letters, "<close>", "c")
    assert [place for place, role in zip(row.place, row.role, strict=True) if role == VISION] == [
        *(2, 3, 0),
        *(5, 6),
    ]


@dataclass(frozen=True, kw_only=True)
class HalvesConfig(TilesConfig):
    """Two tiles of a wide picture, right before left, one of any other."""

    tiles_n: int = 2

    def drawing_size(self, side: int) -> int:
        return side


def layout(cfg, size):
    n = cfg.vision_n
    wide = size[1] > size[0]
    return tuple(
        Run((("<open>", True),), k * n + np.arange(n, dtype=np.int32)) for k in range(1 + wide)
    )


def cut(cfg, picture):
    side = cfg.vision.image_size
    wide = picture.width > picture.height
    shown = picture.resize((side * (1 + wide), side))
    return [shown.crop((x, 0, x + side, side)) for x in (side, 0)[1 - wide :]]


@pytest.fixture
def halves(monkeypatch):
    """A configuration whose way to cut pictures is in the registry during a test alone."""
    tiling = Tiling(config=HalvesConfig, cut=cut, layout=layout)
    family = replace(registry.FAMILIES[0], tiling=tiling)
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, family))
    chat = ChatTemplate(before="<head>", between="<close>", without_image="b", bos=False)
    return replace(
        BACKBONES["tiny"], tiles=HalvesConfig(), bos=False, after_image="<close>", chat=chat
    )


def png(tmp_path, size) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "it.png")
    return (tmp_path / "it.png").read_bytes()


def test_a_familys_own_tiles_become_rows_with_and_without_its_chat_template(
    halves, letters, tmp_path
):
    cfg, budget = halves, LengthBudget(prompt_n=4, answer_n=2)
    wide, tall = (preprocess(cfg, png(tmp_path, size)) for size in ((60, 120), (120, 60)))
    assert wide.pixels.shape == tall.pixels.shape == cfg.image_shape == (2, 60, 60, 3)
    assert np.abs(wide.pixels[1]).max() > 0 and not tall.pixels[1].any()
    assert square_layout(cfg)[0].texts == tall.layout[0].texts and len(square_layout(cfg)) == 1
    examples = [Example("a?", "c", *wide), Example("a?", "c", *tall), Example("a?", "c", None)]
    n = cfg.vision_n
    batch = tokenise(letters, cfg, examples, budget)
    long = [PRE, *[VISION] * n, PRE, *[VISION] * n, PROMPT, PROMPT, PROMPT, ANSWER, ANSWER]
    assert batch.role[0][: len(long)].tolist() == long  # no BOS; "<close>" is the prompt's first
    assert batch.token[0, 2 * n + 2] == ids(letters, "<close>")[0]
    assert batch.role[2][:5].tolist() == [PROMPT, PROMPT, ANSWER, ANSWER, PAD]
    assert batch.place[0][batch.role[0] == VISION].tolist() == list(range(2 * n))
    assert batch.place[1][batch.role[1] == VISION].tolist() == list(range(n))
    spoken = tokenise(letters, cfg, examples, budget, cfg.chat)
    assert spoken.role[0][: 1 + len(long)].tolist() == [PRE, *long]
    assert spoken.token[2][:4].tolist() == ids(letters, "<head>", "b", "a", "?")


def test_a_layout_alone_stands_for_a_picture_without_its_pixels(halves, letters):
    layout, budget = square_layout(halves), LengthBudget(prompt_n=4, answer_n=2)
    blank = np.zeros(halves.image_shape, np.float32)
    alone = tokenise(letters, halves, [Example("a", "c", None, layout)], budget)
    whole = tokenise(letters, halves, [Example("a", "c", blank, layout)], budget)
    for name in ("token", "role", "place"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name))
    assert alone.image.size < whole.image.size


def test_an_unknown_way_to_cut_is_named():
    cfg = replace(BACKBONES["tiny"], tiles=HalvesConfig())
    with pytest.raises(ValueError, match="no family in .*registry.py cuts tiles by HalvesConfig"):
        square_layout(cfg)
