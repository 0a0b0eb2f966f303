"""Tokenising: prompts, targets and pictures become a `Batch` with roles, and answers get labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from liveedit_jax.backbone_config import BackboneConfig, ChatTemplate
from liveedit_jax.config import LengthBudget
from liveedit_jax.data.layout import Layout, Row, build_row, picture_row, single_layout
from liveedit_jax.data.records import check_text
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.types import AnyArray, Batch, Role

LENGTH_MULTIPLE = 64  # of the lengths of training rows


@dataclass(frozen=True)
class Example:
    """One prompt to tokenise, with its target (None: generate) and picture (None: text only).

    A picture whose pixels are not needed has a layout alone.
    """

    prompt: str
    target: str | None
    image: np.ndarray | None  # float32[S, S, 3], normalised; [N, S, S, 3] in tiles
    layout: Layout | None = None  # of the picture's tokens; None: its features in order


def without_pixels(token: Int[AnyArray, "B T"], role: Int[AnyArray, "B T"]) -> Batch:
    """Make a batch of rows whose pictures are given as features or states, or which have none."""
    return Batch(token, role, np.zeros((len(role), 1, 1, 3), np.float32))


def tokenise_pair(
    tokenizer: Tokenizer, prompt: str, target: str | None, between: str, after: str = ""
) -> tuple[list[int], list[int]]:
    """Tokenise a prompt and its target into prompt ids and answer ids.

    The target gets one leading space where neither side has a space or newline at the seam. The
    answer ids are those of prompt + target beyond the length of the prompt's own.

    Args:
        tokenizer: of the backbone.
        prompt: the question.
        target: its answer; None: no answer ids (generation).
        between: text between image and prompt; it belongs to the prompt (LLaVA's layout is
            "<image>\\n{prompt}").
        after: text of a chat template between prompt and answer.

    Raises:
        ValueError: a prompt or target that `check_text` refuses, or a target that merges into the
            prompt's last token.

    Examples:
        >>> from liveedit_jax.data.tokenizer import train_tokenizer
        >>> words = train_tokenizer(["what is this? a red fox"] * 4, 290)
        >>> prompt, answer = tokenise_pair(words, "what is this?", "a red fox", between="")
        >>> words.decode(prompt), words.decode(answer)
        ('what is this?', ' a red fox')
    """
    check_text("prompt", prompt)

    def encode(target: str) -> list[int]:
        return tokenizer.encode_parts(
            (between, True), (prompt, False), (after, True), (target, False)
        )

    prompt_ids, end = encode(""), (after or prompt)[-1]
    if target is None:
        return prompt_ids, []
    check_text("target", target)
    seam = "" if end in " \n" or target[0] in " \n" else " "
    both = encode(seam + target)
    if len(both) <= len(prompt_ids):
        raise ValueError(
            "the target adds no token to the prompt: remove the space at the prompt's end"
        )
    return both[: len(prompt_ids)], both[len(prompt_ids) :]


def _picture(tokenizer: Tokenizer, cfg: BackboneConfig, example: Example) -> Row | None:
    """Tokenise an example's picture."""
    if example.image is None and example.layout is None:
        return None
    return picture_row(tokenizer, cfg.pad_id, example.layout or single_layout(cfg.vision_n))


def round_up(n: int, multiple: int) -> int:
    """Round `n` up to a multiple.

    Examples:
        >>> round_up(65, 64)
        128
    """
    return -(-n // multiple) * multiple


def row_length(budget: LengthBudget, picture_n: int) -> int:
    """Return T of training rows: BOS, image, longest prompt and answer, rounded up."""
    return round_up(1 + picture_n + budget.prompt_n + budget.answer_n, LENGTH_MULTIPLE)


def _tokenise_row(
    tokenizer: Tokenizer,
    cfg: BackboneConfig,
    example: Example,
    picture: Row | None,
    budget: LengthBudget,
    chat: ChatTemplate,
) -> Row:
    """Tokenise one example into an unpadded row."""
    pre = [cfg.bos_id] * chat.bos + tokenizer.encode_parts((chat.before, True))
    between = chat.without_image if picture is None else chat.between
    if cfg.image_first:
        between = chat.between
    prompt, answer = tokenise_pair(tokenizer, example.prompt, example.target, between, chat.after)
    for name, ids, most, field in (
        ("prompt", prompt, budget.prompt_n, "prompt_n"),
        ("target", answer, budget.answer_n, "answer_n"),
    ):
        if len(ids) > most:
            raise ValueError(
                f"the {name} has {len(ids)} tokens, the budget is {most} ({field} of the model's "
                "LengthBudget): shorten it"
            )
    return build_row(cfg, prompt, answer, picture, pre)


def tokenise(
    tokenizer: Tokenizer,
    cfg: BackboneConfig,
    examples: Sequence[Example],
    budget: LengthBudget,
    chat: ChatTemplate | None = None,
) -> Batch:
    """Tokenise examples into a right-padded numpy batch, T = PRE + X + prompt_n + answer_n.

    X, the number of a picture's tokens, may depend on its proportions; it is then rounded up to a
    multiple of a tile's vision tokens, so that few lengths are compiled.

    Args:
        tokenizer: of the backbone.
        cfg: the backbone.
        examples: B of them.
        budget: the most tokens of prompts and targets.
        chat: the model's chat template; None: the editing protocols' plain prompt, whose only PRE
            tokens are BOS and those among a picture's.

    Raises:
        ValueError: an empty prompt or target, one over the budget, or a wrong image shape.
    """
    pictures = [_picture(tokenizer, cfg, example) for example in examples]
    most = max((len(picture.token) for picture in pictures if picture), default=0)
    room = round_up(max(most, 1), cfg.vision_n)
    chat = chat or ChatTemplate(between=cfg.after_image, bos=cfg.bos)
    pre_n = chat.bos + len(tokenizer.encode_parts((chat.before, True)))
    length_n = pre_n + room + budget.prompt_n + budget.answer_n
    tiled, shape = cfg.tiles is not None, cfg.image_shape
    token = np.zeros((len(examples), length_n), np.int32)
    role = np.zeros((len(examples), length_n), np.int8)
    is_shown = any(e.image is not None for e in examples) or not any(pictures)
    image = np.zeros((len(examples), *(shape if is_shown else (1, 1, 3))), np.float32)
    place = np.zeros((len(examples), length_n), np.int32) if tiled else None
    for b, (example, picture) in enumerate(zip(examples, pictures, strict=True)):
        row = _tokenise_row(tokenizer, cfg, example, picture, budget, chat)
        if example.image is not None:
            if example.image.shape != shape:
                raise ValueError(f"image shape {example.image.shape}, expected {shape}")
            image[b] = example.image
        n = len(row.token)
        token[b, :n], role[b, :n] = row.token, row.role
        if place is not None:
            place[b, :n] = row.place
    return Batch(token, role, image, place=place)


def first_true(mask: Bool[np.ndarray, "B T"], n: int) -> Int[np.ndarray, "B n"]:
    """Return the positions of each row's first `n` true entries, in order, then of false ones."""
    return np.argsort(~np.asarray(mask), axis=1, kind="stable")[:, :n].astype(np.int32)


def answer_labels(
    batch: Batch, eos_id: int
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"], Bool[Array, "B T"]]:
    """Compute the next-token labels of the answers.

    Position t predicts token t+1 where that is an ANSWER token of the same segment; an answer's
    last token predicts EOS.

    Returns:
        label int32[B, T], answer_mask bool[B, T] (positions that predict answer tokens) and
        eos_mask bool[B, T] (positions that predict EOS).
    """
    token, role = jnp.asarray(batch.token), jnp.asarray(batch.role)
    following = jnp.pad(role[:, 1:], ((0, 0), (0, 1))) == Role.ANSWER
    if batch.segment is not None:
        segment = jnp.asarray(batch.segment)
        following = following & (jnp.pad(segment[:, 1:], ((0, 0), (0, 1))) == segment)
    eos_mask = (role == Role.ANSWER) & ~following
    label = jnp.pad(token[:, 1:], ((0, 0), (0, 1)))
    return jnp.where(eos_mask, eos_id, label), following, eos_mask
