"""From prompts, targets and pictures to a `Batch`: the seam, the roles, the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from liveedit_jax.backbone_config import BackboneConfig, ChatTemplate
from liveedit_jax.config import LengthBudget
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.types import Batch, Role

ROUND = 64  # what lengths of training rows are a multiple of


@dataclass(frozen=True)
class Example:
    """One prompt to tokenise: its target (None for generation) and picture (None for text only)."""

    prompt: str
    target: str | None
    image: np.ndarray | None  # float32[S, S, 3], normalised; [N, S, S, 3] in tiles
    place: np.ndarray | None = None  # int32[P]: the feature row of each vision token, in tiles


def without_pixels(token: Int[Array, "B T"], role: Int[Array, "B T"]) -> Batch:
    """Rows whose pictures are given as vision features or lower states, or which have none."""
    return Batch(token, role, np.zeros((len(role), 1, 1, 3), np.float32))


def seam_ids(
    tokenizer: Tokenizer, prompt: str, target: str | None, between: str, after: str = ""
) -> tuple[list[int], list[int]]:
    """Prompt ids and answer ids.

    `between` joins an image to its prompt and belongs to the prompt (LLaVA's layout is
    "<image>\\n{prompt}"). The target gets one leading space when neither side has a space or
    newline at the seam, and the answer is what tokenising prompt + target has beyond the prompt's
    own length. `after` is a chat template's: what stands between prompt and answer.

    Raises:
        ValueError: an empty prompt or target, or a seam that merges the target into the prompt.
    """
    if not prompt.strip():
        raise ValueError("the prompt is empty")

    def encode(target: str) -> list[int]:
        return tokenizer.encode_parts(
            (between, True), (prompt, False), (after, True), (target, False)
        )

    prompt_ids, end = encode(""), (after or prompt)[-1]
    if target is None:
        return prompt_ids, []
    if not target.strip():
        raise ValueError("the target is empty")
    seam = "" if end in " \n" or target[0] in " \n" else " "
    both = encode(seam + target)
    if len(both) <= len(prompt_ids):
        raise ValueError(
            "the target adds no token to the prompt: remove the space at the prompt's end"
        )
    return both[: len(prompt_ids)], both[len(prompt_ids) :]


def _vision_n(cfg: BackboneConfig, example: Example) -> int:
    if example.image is None:
        return 0
    return cfg.vision_n if example.place is None else len(example.place)


def row_of(
    cfg: BackboneConfig, prompt: list[int], answer: list[int], vision_n: int, pre: list[int]
) -> tuple[list[int], list[int]]:
    """Token ids and roles of one row, unpadded; where the image is first, `pre` opens the prompt.

    Args:
        cfg: the backbone.
        prompt: its ids.
        answer: its ids; none for generation.
        vision_n: how many vision tokens the row has.
        pre: what stands before the image.
    """
    if cfg.image_first:
        pre, prompt = [], pre + prompt
    parts = (
        (Role.PRE, pre),
        (Role.VISION, [cfg.pad_id] * vision_n),
        (Role.PROMPT, prompt),
        (Role.ANSWER, answer),
    )
    ids = [i for _, part in parts for i in part]
    return ids, [role for role, part in parts for _ in part]


def round_up(n: int, multiple: int) -> int:
    """The next multiple from `n` on."""
    return -(-n // multiple) * multiple


def row_length(budget: LengthBudget, vision_n: int) -> int:
    """T of training rows: BOS, image, longest prompt and answer, up to a multiple of ROUND."""
    return round_up(1 + vision_n + budget.prompt_n + budget.answer_n, ROUND)


def _row(
    tokenizer: Tokenizer,
    cfg: BackboneConfig,
    example: Example,
    budget: LengthBudget,
    chat: ChatTemplate,
) -> tuple[list[int], list[int]]:
    """Token ids and roles of one example, unpadded."""
    vision_n = _vision_n(cfg, example)
    pre = [cfg.bos_id] * chat.bos + tokenizer.encode_parts((chat.before, True))
    between = chat.between if vision_n or cfg.image_first else ""
    prompt, answer = seam_ids(tokenizer, example.prompt, example.target, between, chat.after)
    for name, ids, most, field in (
        ("prompt", prompt, budget.prompt_n, "prompt_n"),
        ("target", answer, budget.answer_n, "answer_n"),
    ):
        if len(ids) > most:
            raise ValueError(
                f"the {name} has {len(ids)} tokens, the budget is {most} ({field} of the model's "
                "LengthBudget): shorten it"
            )
    return row_of(cfg, prompt, answer, vision_n, pre)


def tokenise(
    tokenizer: Tokenizer,
    cfg: BackboneConfig,
    examples: Sequence[Example],
    budget: LengthBudget,
    chat: ChatTemplate | None = None,
) -> Batch:
    """A right-padded batch of numpy arrays, T = PRE + P + prompt_n + answer_n.

    `chat` puts a template's words around image and prompt; None is the editing protocols' plain
    prompt, whose only PRE token is BOS.

    Pictures in tiles have as many vision tokens as their shapes say; P is then the next multiple of
    the backbone's nominal number, so that few lengths are compiled.

    Raises:
        ValueError: an empty prompt or target, one longer than the budget, or a wrong image shape.
    """
    most = max((_vision_n(cfg, example) for example in examples), default=0)
    room = max(-(-most // cfg.vision_n), 1) * cfg.vision_n
    chat = chat or ChatTemplate(between=cfg.after_image)
    pre_n = chat.bos + len(tokenizer.encode_parts((chat.before, True)))
    length_n = pre_n + room + budget.prompt_n + budget.answer_n
    shape = cfg.image_shape
    token = np.zeros((len(examples), length_n), np.int32)
    role = np.zeros((len(examples), length_n), np.int8)
    image = np.zeros((len(examples), *shape), np.float32)
    place = np.zeros((len(examples), length_n), np.int32) if cfg.grids else None
    for b, example in enumerate(examples):
        ids, roles = _row(tokenizer, cfg, example, budget, chat)
        if example.image is not None:
            if example.image.shape != shape:
                raise ValueError(f"image shape {example.image.shape}, expected {shape}")
            image[b] = example.image
        token[b, : len(ids)], role[b, : len(ids)] = ids, roles
        if place is not None and example.image is not None:
            place[b, role[b] == Role.VISION] = example.place
    return Batch(token, role, image, place=place)


def first_true(mask: Bool[np.ndarray, "B T"], n: int) -> Int[np.ndarray, "B n"]:
    """Positions of each row's first `n` true entries, in order, then of some false ones."""
    return np.argsort(~np.asarray(mask), axis=1, kind="stable")[:, :n].astype(np.int32)


def answer_labels(
    batch: Batch, eos_id: int
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"], Bool[Array, "B T"]]:
    """Next-token labels of the answers.

    Position t predicts token t+1 when that is an ANSWER token of the same segment; the last answer
    token predicts EOS.

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
