"""Measure how much of MojiEdit an unedited VLLM knows, by kind of question."""

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
    KnowledgeQuestion,
    Picture,
    caption_questions,
    drawings,
    fact_questions,
    has_learned_compositions,
    sample,
    scene_questions,
    text_only_questions,
    two_fact_questions,
)
from liveedit_jax.types import Batch

ROUND = 32  # lengths and answer positions are padded to a multiple: few shapes, few compilations
SEGMENTS_N = 40  # a packed row holds at most so many questions


@partial(jax.jit, static_argnums=0)
def segment_accuracy(
    backbone: Backbone, params: dict, batch: Batch, at: Int[Array, "B A"]
) -> tuple[Float[Array, "B G"], Float[Array, "B G"]]:
    """Score every packed question (segments 1..G of a row).

    Args:
        backbone: the model's functions.
        params: its weights.
        batch: packed rows.
        at: every position that predicts an answer token or EOS; logits are computed only there.

    Returns:
        The share of right answer tokens, and whether all of them and EOS are right.
    """
    features = None if batch.image is None else backbone.vision_features(params, batch.image)
    hidden = backbone.lower_from_features(params, batch, features)
    logits = backbone.upper(params, hidden, batch, at)
    assert batch.segment is not None  # questions are packed
    found = *answer_labels(batch, backbone.cfg.eos_id), batch.segment
    label, answer, eos, segment = (jnp.take_along_axis(x, at, 1) for x in found)
    right = logits.argmax(-1) == label
    groups = jax.nn.one_hot(segment - 1, SEGMENTS_N)

    def total(chosen):
        return (groups * chosen[..., None]).sum(1)

    share = total(right & answer) / jnp.maximum(total(answer), 1)
    return share, total(~right & (answer | eos)) == 0


def _pack(
    cfg: BackboneConfig,
    questions: Sequence[Question],
    pictures: Sequence[tuple[Picture, ...]],
    length_n: int,
) -> list[list[int]]:
    """Pack questions into rows of at most `length_n` tokens; one row shares its pictures.

    Raises:
        ValueError: a question that no row holds.
    """
    rows: list[list[int]] = []
    used = 0
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
    questions: Sequence[KnowledgeQuestion],
    batch_n: int = 64,
    length_n: int = 320,
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """Measure the teacher-forced accuracy of each question.

    Questions about the same pictures are packed into shared rows.

    Args:
        backbone: the model's functions.
        params: its weights.
        tokenizer: its tokenizer.
        questions: the questions; all show the same number of pictures.
        batch_n: rows per batch.
        length_n: a row's maximal number of tokens.

    Returns:
        Each question's share of right tokens, and 1 where all of them and EOS are right, else 0.

    Raises:
        ValueError: a question too long for a row, or questions with different numbers of pictures.
    """
    cfg, shown = backbone.cfg, [one.pictures for one in questions]
    pictures_n = len(shown[0])
    if any(len(pictures) != pictures_n for pictures in shown):
        raise ValueError("questions with other numbers of pictures are measured apart")
    between = cfg.after_image if pictures_n else ""
    pairs = [tokenise_pair(tokenizer, one.prompt, one.answer, between) for one in questions]
    packed = _pack(cfg, pairs, shown, length_n)
    head_n = 1 + pictures_n * cfg.vision_n
    used_n = max(head_n + sum(len(part) for i in row for part in pairs[i]) for row in packed)
    labels_n = max(sum(len(pairs[i][1]) + 1 for i in row) for row in packed)
    row_n, labels_n = min(length_n, round_up(used_n, ROUND)), round_up(labels_n, ROUND)
    share, exact = np.zeros(len(questions)), np.zeros(len(questions))
    for start in range(0, len(packed), batch_n):
        chunk = packed[start : start + batch_n]
        filled = chunk + [chunk[0]] * (batch_n - len(chunk))
        rows = [
            pack_row([pairs[i] for i in row], row_n, cfg.bos_id, head_n - 1)[0] for row in filled
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
    """Draw the rows' pictures (None: no row has one); several of a row become tiles of one."""
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
    """Measure the teacher-forced token accuracy of each fact, averaged over its questions.

    Args:
        backbone: the model's functions.
        params: its weights.
        tokenizer: its tokenizer.
        shown: (entity, source) pairs: the drawings to ask about.
        evaluation: use the wordings reserved for evaluation (else the training ones).
        batch_n: rows per batch.
        length_n: a packed row's maximal number of tokens.

    Returns:
        fact -> accuracy in 0..1, with "english" and "languages" as means over those facts.
    """
    questions = fact_questions(shown, evaluation, "facts")
    share, exact = answer_accuracy(backbone, params, tokenizer, questions, batch_n, length_n)
    found = average_scores(questions, share, exact)["facts"]
    return {name: one["tokens"] for name, one in found.items()}


def average_scores(
    questions: Sequence[KnowledgeQuestion],
    share: Float[np.ndarray, " X"],
    exact: Float[np.ndarray, " X"],
) -> dict[str, dict[str, dict[str, float]]]:
    """Average the scores of questions by part and group.

    Returns:
        part -> group -> {"tokens": mean token accuracy, "exact": share all right, "questions": n}.
    """
    members = defaultdict(list)
    for i, one in enumerate(questions):
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
    """Measure everything that pretraining teaches: questions about drawings, scenes and names.

    Facts are asked in training and in evaluation wordings, everything else in evaluation wordings
    (for scenes see `questions.scene_questions`). "unseen" are the dev and eval entities, whose
    two-fact questions and captions are not part of pretraining.

    Args:
        backbone: the model's functions.
        params: its weights.
        tokenizer: its tokenizer.
        entities_n: the number of entities (None: all), and of scenes. Drawings held out of
            pretraining are always all included.
        batch_n: rows per batch.
        length_n: a packed row's maximal number of tokens.

    Returns:
        part -> group -> {"tokens", "exact", "questions"}; see `average_scores`.
    """
    cfg = backbone.cfg
    some = sample(entities(), entities_n)
    seen = drawings(some, held_out=False)
    asked = fact_questions(seen, False, "training_templates")
    asked += fact_questions(seen, True, "evaluation_templates")
    asked += fact_questions(drawings(entities(), held_out=True), False, "held_out_drawings")
    for part, learned in (("learned", True), ("unseen", False)):
        shown = [one for one in seen if has_learned_compositions(one[0]) == learned]
        captions = caption_questions(shown, part)
        asked += two_fact_questions(shown, part)
        asked += [one for one in captions if _fits(tokenizer, cfg, one)]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for questions in (asked, scene_questions(len(some)), text_only_questions(entities_n)):
        accuracy = answer_accuracy(backbone, params, tokenizer, questions, batch_n, length_n)
        found |= average_scores(questions, *accuracy)
    return found


def _fits(tokenizer: Tokenizer, cfg: BackboneConfig, one: KnowledgeQuestion) -> bool:
    """Return whether a caption is no longer than those that pretraining uses."""
    return len(tokenise_pair(tokenizer, one.prompt, one.answer, cfg.after_image)[1]) <= CAPTION_MOST


def other_drawing_recall(images: Float[np.ndarray, "2X D"], false_share: float) -> float:
    """Compute the recall of matching an entity's two drawings, at a given false-positive rate.

    Args:
        images: mean states (`training.image_start.mean_images`), two rows per entity: its two
            drawings. They are compared by inner products, as hard routing does.
        false_share: the share of pairs of different entities that pass the threshold.

    Returns:
        The share of the X entities whose two drawings pass it.
    """
    scores = images[0::2] @ images[1::2].T
    wrong = scores[~np.eye(len(scores), dtype=bool)]
    return float((np.diag(scores) > np.quantile(wrong, 1 - false_share)).mean())
