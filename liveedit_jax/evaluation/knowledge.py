"""What an unedited VLLM knows of MojiEdit: token accuracy by fact, drawing and wording."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.data.facts import ENGLISH_FACTS, FACTS, LANGUAGES, SOURCES, Entity, digest
from liveedit_jax.data.images import drawing, normalise
from liveedit_jax.data.packing import pack_row
from liveedit_jax.data.pretraining import stacked
from liveedit_jax.data.templates import templates
from liveedit_jax.data.tokenise import answer_labels, first_true, seam_ids
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.types import Batch

ROUND = 32  # answer positions of a batch are padded to a multiple: few shapes, few compilations


@partial(jax.jit, static_argnums=0)
def segment_accuracy(
    backbone: Backbone, params: dict, batch: Batch, at: Int[Array, "B A"]
) -> tuple[Float[Array, "B G"], Float[Array, "B G"]]:
    """Right answer tokens and all answer tokens of every packed question (segment 1..G).

    `at` holds every position that predicts an answer token; logits are computed there alone.
    """
    logits = backbone.upper(params, backbone.lower(params, batch), batch, at)
    label, mask, _ = answer_labels(batch, backbone.cfg.eos_id)
    label, mask, segment = (jnp.take_along_axis(x, at, 1) for x in (label, mask, batch.segment))
    groups = jax.nn.one_hot(segment - 1, len(FACTS)) * mask[..., None]
    right = (logits.argmax(-1) == label)[..., None] * groups
    return right.sum(1), groups.sum(1)


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
        batch_n: drawings a batch.
        length_n: T of a packed row; it must hold all 13 questions.

    Returns:
        fact -> accuracy in 0..1, with "english" and "languages" as means over those facts.
    """
    cfg: BackboneConfig = backbone.cfg
    sums = np.zeros(len(FACTS))
    for start in range(0, len(shown), batch_n):
        chunk = list(shown[start : start + batch_n])
        real_n = len(chunk)
        chunk += [chunk[0]] * (batch_n - real_n)
        rows, pictures = [], []
        for entity, source in chunk:
            questions = []
            for fact in FACTS:
                wordings = templates(fact, evaluation)
                wording = wordings[digest(entity.file_key, source, fact) % len(wordings)]
                questions.append(seam_ids(tokenizer, wording, entity.facts[fact], cfg.after_image))
            row, packed_n = pack_row(questions, length_n, cfg.bos_id, cfg.vision_n)
            if packed_n != len(FACTS):
                raise ValueError(
                    f"length_n={length_n} is too short for the facts of {entity.emoji}"
                )
            rows.append(row)
            pictures.append(drawing(entity.id, source, cfg.vision.image_size))
        batch = Batch(image=normalise(np.stack(pictures), cfg.vision), **stacked(rows))
        mask = np.asarray(answer_labels(batch, cfg.eos_id)[1])
        at = first_true(mask, -(-int(mask.sum(1).max()) // ROUND) * ROUND)
        right, total = segment_accuracy(backbone, params, jax.tree.map(jnp.asarray, batch), at)
        sums += np.asarray(right / jnp.maximum(total, 1))[:real_n].sum(0)
    figures = dict(zip(FACTS, sums / len(shown), strict=True))
    figures["english"] = float(np.mean([figures[fact] for fact in ENGLISH_FACTS]))
    figures["languages"] = float(np.mean([figures[fact] for fact in LANGUAGES]))
    return figures


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


def drawings(entities: Sequence[Entity], held_out: bool) -> list[tuple[Entity, str]]:
    """(entity, source) of the drawings pretraining saw, or of those held out of it."""
    return [
        (entity, source)
        for entity in entities
        for source in SOURCES
        if (entity.held_out == source) == held_out
    ]
