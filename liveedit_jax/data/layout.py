"""Layouts: the tokens of a picture, and those that the model's processor puts among them.

    BOS  <row 1, column 1>  V V V V  <row 1, column 2>  V V V V  \\n  ...  what is this?
    PRE  PRE                VISION   PRE                VISION   PRE       PROMPT

A layout is data: runs of vision tokens, each with the texts in front of it. What a family's
processor does to a picture makes one (`family.Tiling`); a picture that is one square has one run.
Text after the last run is the model's `after_image` or its chat template's `between`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.types import Role

Text = tuple[str, bool]  # and whether it is the processor's own, not a user's
TEXT_N = 3  # special tokens that a processor puts in front of a run at most


class Run(NamedTuple):
    """Vision tokens that follow each other, and the texts between them and what comes before."""

    texts: tuple[Text, ...]
    place: Int[np.ndarray, " P"]  # the feature row of each


Layout = tuple[Run, ...]


class Row(NamedTuple):
    """Tokens of a row without padding, their roles, and the feature rows of VISION tokens."""

    token: list[int]
    role: list[int]
    place: list[int]  # 0 elsewhere


NO_PICTURE = Row([], [], [])


@lru_cache
def single_layout(vision_n: int) -> Layout:
    """Return the layout of a picture that is one square: its features in order."""
    return (Run((), np.arange(vision_n, dtype=np.int32)),)


def tokens_n(layout: Layout) -> int:
    """Return about how many tokens a layout has, where no tokenizer can tell."""
    return sum(TEXT_N * bool(run.texts) + len(run.place) for run in layout)


def join_layouts(shown: Sequence[tuple[str, Layout]], between: str, features_n: int) -> Layout:
    """Join the layouts of several pictures that are shown one after another.

    Args:
        shown: each picture's layout, and the user's text in front of it ("" where there is none).
        between: what the processor puts behind a picture: `BackboneConfig.after_image`.
        features_n: feature rows of each picture in a batch (N tiles of P features).
    """
    runs: list[Run] = []
    for i, (text, layout) in enumerate(shown):
        texts: tuple[Text, ...] = ((between, True),) if i else ()
        for run in layout:
            texts = (*texts, (text, False), *run.texts)
            runs.append(Run(tuple(t for t in texts if t[0]), i * features_n + run.place))
            texts, text = (), ""
    return tuple(runs)


def text_row(ids: Iterable[int], role: Role) -> Row:
    """Make a row of text."""
    ids = list(ids)
    return Row(ids, [role] * len(ids), [0] * len(ids))


def join_rows(*rows: Row) -> Row:
    """Join rows to one."""
    return Row(*(sum(parts, []) for parts in zip(*rows, strict=True)))


def picture_row(tokenizer: Tokenizer, pad_id: int, layout: Layout) -> Row:
    """Tokenise a layout: a user's text has the role PROMPT, the processor's PRE.

    Texts between two runs are tokenised as one; special tokens are recognised in the processor's.
    """
    row = NO_PICTURE
    for run in layout:
        ids = tokenizer.encode_parts(*run.texts)
        roles, begin = [Role.PRE] * len(ids), 0
        for i, (_, trusted) in enumerate(run.texts):
            end = _common_n(ids, tokenizer.encode_parts(*run.texts[: i + 1]))
            if not trusted:
                roles[begin:end] = [Role.PROMPT] * (end - begin)
            begin = end
        n = len(run.place)
        vision = Row([pad_id] * n, [Role.VISION] * n, run.place.tolist())
        row = join_rows(row, Row(ids, list(roles), [0] * len(ids)), vision)
    return row


def _common_n(first: Sequence[int], second: Sequence[int]) -> int:
    """Count the ids that two lists begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def build_row(
    cfg: BackboneConfig,
    prompt: Sequence[int],
    answer: Sequence[int],
    picture: Row | None,
    pre: Sequence[int],
) -> Row:
    """Build one unpadded row.

    Args:
        cfg: the backbone; where its image comes first (`image_first`), `pre` begins the prompt.
        prompt: prompt ids.
        answer: answer ids; none for generation.
        picture: of `picture_row`; None: the row has no picture.
        pre: ids before the image.
    """
    if cfg.image_first:
        pre, prompt = [], [*pre, *prompt]
    return join_rows(
        text_row(pre, Role.PRE),
        picture or NO_PICTURE,
        text_row(prompt, Role.PROMPT),
        text_row(answer, Role.ANSWER),
    )
