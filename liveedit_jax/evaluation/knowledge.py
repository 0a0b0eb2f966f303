"""What an unedited VLLM knows of MojiEdit: shares of right answers, by kind of question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.data.facts import Entity, entities
from liveedit_jax.data.images import drawing, normalise_pixels
from liveedit_jax.data.packing import Question, collate_rows, pack_row
from liveedit_jax.data.pretraining import CAPTION_MOST
from liveedit_jax.data.tokenise import answer_labels, first_true, round_up, tokenise_pair
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.evaluation.questions import (
    Asked,
    Picture,
    caption_questions,
    drawings,
    fact_questions,
    learned_compositions,
    sample,
    scene_questions,
    text_only_questions,
    two_fact_questions,
)
from liveedit_jax.types import Batch

ROUND = 32  # lengths and answer positions are padded to a multiple: few shapes, few compilations
SEGMENTS_N = 40  # most questions of a packed row


@partial(jax.jit, static_argnums=0)
def segment_accuracy(
    backbone: Backbone, params: dict, batch: Batch, at: Int[Array, "B A"]
) -> tuple[Float[Array, "B G"], Float[Array, "B G"]]:
    """Token accuracy of every packed question (segment 1..G), and whether all of it is right.

    Token accuracy counts answer tokens; all is right where their EOS is, too. `at` holds every
    position that predicts one of these; logits are computed there alone.
    """
    features = None if batch.image is None else backbone.vision_features(params, batch.image)
    hidden = backbone.lower_from_features(params, batch, features)
    logits = backbone.upper(params, hidden, batch, at)
    found = *answer_labels(batch, backbone.cfg.eos_id), batch.segment
    label, answer, eos, segment = (jnp.take_along_axis(x, at, 1) for x in found)
    right = logits.argmax(-1) == label
    groups = jax.nn.one_hot(segment - 1, SEGMENTS_N)

    def total(chosen):
        return (groups * chosen[..., None]).sum(1)

    share = total(right & answer) / jnp.maximum(total(answer), 1)
    return share, total(~right & (answer | eos)) == 0


def _packed(
    cfg: BackboneConfig,
    questions: Sequence[Question],
    pictures: Sequence[tuple[Picture, ...]],
    length_n: int,
) -> list[list[int]]:
    """Share questions out among rows; all of one row show the same."""
    rows, used = [], 0
    for i in sorted(range(len(questions)), key=pictures.__getitem__):
        head_n, n = 1 + len(pictures[i]) * cfg.vision_n, sum(map(len, questions[i]))
        if head_n + n > length_n:
            raise ValueError(f"length_n={length_n} is too short for {head_n + n} tokens")
        open_row = rows and pictures[rows[-1][0]] == pictures[i] and len(rows[-1]) < SEGMENTS_N
        if not open_row or used + n > length_n:
            rows.append([])
            used = head_n
        rows[-1].append(i)
        used += n
    return rows


def answer_accuracy(
    backbone: Backbone,
    params: dict,
    tokenizer: Tokenizer,
    asked: Sequence[Asked],
    batch_n: int = 64,
    length_n: int = 320,
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """Teacher-forced token accuracy of each question, and 1 where all tokens and EOS are right.

    Questions that show the same share rows.

    Args:
        backbone: the model's functions.
        params: its weights.
        tokenizer: its tokenizer.
        asked: questions which all show equally many pictures.
        batch_n: rows a batch.
        length_n: most tokens of a row.

    Raises:
        ValueError: a question that no row holds, or other numbers of pictures.
    """
    cfg, shown = backbone.cfg, [one.pictures for one in asked]
    pictures_n = len(shown[0])
    if any(len(pictures) != pictures_n for pictures in shown):
        raise ValueError("questions with other numbers of pictures are measured apart")
    between = cfg.after_image if pictures_n else ""
    questions = [tokenise_pair(tokenizer, one.prompt, one.answer, between) for one in asked]
    packed = _packed(cfg, questions, shown, length_n)
    head_n = 1 + pictures_n * cfg.vision_n
    used_n = max(head_n + sum(len(part) for i in row for part in questions[i]) for row in packed)
    labels_n = max(sum(len(questions[i][1]) + 1 for i in row) for row in packed)
    row_n, labels_n = min(length_n, round_up(used_n, ROUND)), round_up(labels_n, ROUND)
    share, exact = np.zeros(len(asked)), np.zeros(len(asked))
    for start in range(0, len(packed), batch_n):
        chunk = packed[start : start + batch_n]
        filled = chunk + [chunk[0]] * (batch_n - len(chunk))
        rows = [
            pack_row([questions[i] for i in row], row_n, cfg.bos_id, head_n - 1)[0]
            for row in filled
        ]
        batch = Batch(image=_pixels(cfg, [shown[row[0]] for row in filled]), **collate_rows(rows))
        _, answer, eos = answer_labels(batch, cfg.eos_id)
        at = first_true(np.asarray(answer | eos), min(labels_n, row_n))
        found = segment_accuracy(backbone, params, jax.tree.map(jnp.asarray, batch), at)
        for row, shares, exacts in zip(chunk, *map(np.asarray, found), strict=False):
            share[row], exact[row] = shares[: len(row)], exacts[: len(row)]
    return share, exact


def _pixels(
    cfg: BackboneConfig, shown: Sequence[tuple[Picture, ...]]
) -> Float[np.ndarray, "B S S 3"] | Float[np.ndarray, "B N S S 3"] | None:
    """The rows' pictures; several of a row are tiles of one."""
    if not shown[0]:
        return None
    side = cfg.vision.image_size
    pixels = np.stack([[drawing(i, source, side) for i, source in row] for row in shown])
    return normalise_pixels(pixels[:, 0] if len(shown[0]) == 1 else pixels, cfg.vision)


def fact_accuracy(
    backbone: Backbone,
    params: dict,
    tokenizer: Tokenizer,
    shown: Sequence[tuple[Entity, str]],
    evaluation: bool,
    batch_n: int = 64,
    length_n: int = 400,
) -> dict[str, float]:
    """Teacher-forced token accuracy (mean over drawings of a question's mean) for each fact.

    Args:
        backbone: the model's functions.
        params: its weights.
        tokenizer: its tokenizer.
        shown: (entity, source) pairs: which drawings are asked about.
        evaluation: ask in evaluation-only wordings (else in training ones).
        batch_n: rows a batch.
        length_n: most tokens of a packed row.

    Returns:
        fact -> accuracy in 0..1, with "english" and "languages" as means over those facts.
    """
    asked = fact_questions(shown, evaluation, "facts")
    share, exact = answer_accuracy(backbone, params, tokenizer, asked, batch_n, length_n)
    return {name: one["tokens"] for name, one in figures(asked, share, exact)["facts"].items()}


def figures(
    asked: Sequence[Asked], share: Float[np.ndarray, " X"], exact: Float[np.ndarray, " X"]
) -> dict[str, dict[str, dict[str, float]]]:
    """Part -> group -> means over its questions (tokens, exact) and how many they are."""
    members = defaultdict(list)
    for i, one in enumerate(asked):
        for group in one.groups:
            members[one.part, group].append(i)
    found: dict[str, dict] = defaultdict(dict)
    for (part, group), of in members.items():
        found[part][group] = {
            "tokens": float(share[of].mean()),
            "exact": float(exact[of].mean()),
            "questions": len(of),
        }
    return dict(found)


def measure_base(
    backbone: Backbone,
    params: dict,
    tokenizer: Tokenizer,
    entities_n: int | None = 250,
    batch_n: int = 64,
    length_n: int = 320,
) -> dict[str, dict[str, dict[str, float]]]:
    """Everything that pretraining teaches, asked of drawings, scenes and names.

    Facts are asked in training and in evaluation wordings, the rest in evaluation wordings
    (`questions.scene_questions` says which of a scene's words these are). "unseen" are dev and
    eval entities, whose two-fact questions and captions pretraining never asked.

    Args:
        backbone: the model's functions.
        params: its weights.
        tokenizer: its tokenizer.
        entities_n: entities that are asked about (None: all); as many scenes. Drawings held out
            of pretraining are always all asked about.
        batch_n: rows a batch.
        length_n: most tokens of a packed row.

    Returns:
        part -> group -> {"tokens", "exact", "questions"}; see `figures`.
    """
    cfg = backbone.cfg
    some = sample(entities(), entities_n)
    seen = drawings(some, held_out=False)
    asked = fact_questions(seen, False, "training_templates")
    asked += fact_questions(seen, True, "evaluation_templates")
    asked += fact_questions(drawings(entities(), held_out=True), False, "held_out_drawings")
    for part, learned in (("learned", True), ("unseen", False)):
        shown = [one for one in seen if learned_compositions(one[0]) == learned]
        captions = caption_questions(shown, part)
        asked += two_fact_questions(shown, part)
        asked += [one for one in captions if _fits(tokenizer, cfg, one)]
    found = {}
    for questions in (asked, scene_questions(len(some)), text_only_questions(entities_n)):
        accuracy = answer_accuracy(backbone, params, tokenizer, questions, batch_n, length_n)
        found |= figures(questions, *accuracy)
    return found


def _fits(tokenizer: Tokenizer, cfg: BackboneConfig, one: Asked) -> bool:
    """Whether a caption is short enough to be one that is learned."""
    return len(tokenise_pair(tokenizer, one.prompt, one.answer, cfg.after_image)[1]) <= CAPTION_MOST


def other_drawing_found(images: Float[np.ndarray, "2X D"], false_share: float) -> float:
    """How often an entity's two drawings are more alike than all but `false_share` of wrong pairs.

    Args:
        images: mean states (`training.image_start.mean_images`), the drawings of X entities in
            turn; they are compared by products, as hard routing does.
        false_share: of pairs of two entities that are more alike than the threshold.

    Returns:
        A share of X.
    """
    scores = images[0::2] @ images[1::2].T
    wrong = scores[~np.eye(len(scores), dtype=bool)]
    return float((np.diag(scores) > np.quantile(wrong, 1 - false_share)).mean())
