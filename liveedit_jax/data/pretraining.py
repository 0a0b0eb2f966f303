"""The pretraining mixture of the small VLLM: packed questions on both drawings, and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import flax.struct
import numpy as np
from jaxtyping import Float

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.config import PretrainConfig
from liveedit_jax.data.facts import (
    ENGLISH_FACTS,
    FACTS,
    LANGUAGES,
    SOURCES,
    Entity,
    by_subcategory,
    entities,
)
from liveedit_jax.data.images import drawing, normalise
from liveedit_jax.data.packing import Question, pack_row
from liveedit_jax.data.paraphrases import draw_wordings
from liveedit_jax.data.templates import templates, text_questions
from liveedit_jax.data.tokenise import seam_ids
from liveedit_jax.data.tokenizer import Tokenizer, train_tokenizer
from liveedit_jax.types import Batch

STRANGE_MOST = 24  # tokens of a jumbled answer


@flax.struct.dataclass
class PretrainingBatch:
    """One step: packed rows (images first, then text), and drawings that are only contrasted.

    The strange rows have the images of the first rows, and answers that only the terms on the edit
    layer's output see.
    """

    rows: Batch
    strange: Batch
    pairs: Float[np.ndarray, "2X S S 3"]  # one drawing of X entities, then the other


def mojiedit_tokenizer(vocab_n: int) -> Tokenizer:
    """The benchmark's BPE: the editor-train split's values and questions, and every template.

    Pieces come from values that can be editor-training targets, so hardly any piece of an
    evaluation target was never a training target.
    """
    texts = []
    for entity in entities():
        if entity.split == "editor_train":
            texts += [" " + entity.facts[fact] for fact in FACTS for _ in range(4)]
            texts += [question for fact in FACTS for question in text_questions(fact, entity.facts)]
    for fact in FACTS:
        texts += [wording for wording in templates(fact, evaluation=False) for _ in range(40)]
    return train_tokenizer(texts, vocab_n)


def stacked(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows of one length as arrays [B, T]."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def shown(chosen: Sequence[Entity]) -> list[tuple[int, str]]:
    """(entity id, source) of one drawing of each, then of the other.

    An entity with a held-out drawing is shown twice in the drawing that remains.
    """
    return [
        (entity.id, SOURCES[1 - n] if entity.held_out == source else source)
        for n, source in enumerate(SOURCES)
        for entity in chosen
    ]


@dataclass(frozen=True)
class PretrainingData:
    """Batches as a function of the step: `images_n` packed image rows, then `text_n` text rows."""

    tokenizer: Tokenizer
    backbone: BackboneConfig
    cfg: PretrainConfig
    length_n: int = 160  # T of a packed row
    text_n: int = 6
    languages_n: int = 4  # of the eight language questions, drawn anew for each row

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        return {fact: [entity.facts[fact] for entity in entities()] for fact in FACTS}

    @cached_property
    def _order(self) -> np.ndarray:
        return np.array([entity.id for entity in entities()])

    def _value(self, rng, fact: str) -> str:
        """Some entity's value of a fact."""
        values = self._values[fact]
        return values[int(rng.integers(len(values)))]

    def _wordings(self, rng, fact: str, n: int) -> list[str]:
        return draw_wordings(rng, fact, n, self.cfg.paraphrase_share)

    def _ask(self, rng, entity: Entity, fact: str) -> Question:
        (wording,) = self._wordings(rng, fact, 1)
        return seam_ids(self.tokenizer, wording, entity.facts[fact], self.backbone.after_image)

    def _in_context(self, rng, entity: Entity, has_image: bool) -> Question:
        """A stated (counterfactual) fact, then a question: the same one, or (1/4) another."""
        fact = str(rng.choice(FACTS))
        stated = self._value(rng, fact)
        first, second = self._wordings(rng, fact, 2)
        answer = stated
        if has_image and rng.random() < 0.25:
            other = str(rng.choice([f for f in ENGLISH_FACTS if f != fact]))
            (second,), answer = self._wordings(rng, other, 1), entity.facts[other]
        prompt = f"Fact: {first} {stated}\n{second}"
        between = self.backbone.after_image if has_image else ""
        return seam_ids(self.tokenizer, prompt, answer, between)

    def _image_row(self, rng, entity: Entity) -> dict[str, np.ndarray]:
        languages = list(rng.choice(list(LANGUAGES), self.languages_n, replace=False))
        facts = [*ENGLISH_FACTS, *languages]
        questions = [self._ask(rng, entity, str(fact)) for fact in facts]
        questions.insert(5, self._in_context(rng, entity, True))
        return pack_row(questions, self.length_n, self.backbone.bos_id, self.backbone.vision_n)[0]

    def _text_row(self, rng) -> dict[str, np.ndarray]:
        questions = []
        for _ in range(8):
            entity = entities()[int(rng.integers(len(entities())))]
            fact = str(rng.choice(FACTS))
            if rng.random() < 0.3:
                questions.append(self._in_context(rng, entity, False))
            else:
                question = str(rng.choice(text_questions(fact, entity.facts)))
                questions.append(seam_ids(self.tokenizer, question, entity.facts[fact], ""))
        return pack_row(questions, self.length_n, self.backbone.bos_id, 0)[0]

    def _strange(self, rng, fact: str, question: str) -> Question:
        """A question with an answer that it does not have: another value, or jumbled pieces."""
        between = self.backbone.after_image
        prompt, answer = seam_ids(self.tokenizer, question, self._value(rng, fact), between)
        if rng.random() < 0.5:
            for other in rng.choice(FACTS, 3):
                value = self._value(rng, str(other))
                answer = answer + seam_ids(self.tokenizer, question, value, between)[1]
            most = int(rng.integers(1, min(len(answer), STRANGE_MOST) + 1))
            answer = [int(token) for token in rng.permutation(answer)[:most]]
        return prompt, answer

    def _strange_row(self, rng) -> dict[str, np.ndarray]:
        questions = []
        for _ in range(12):
            fact = str(rng.choice(FACTS))
            (question,) = self._wordings(rng, fact, 1)
            questions.append(self._strange(rng, fact, question))
        return pack_row(questions, self.length_n, self.backbone.bos_id, self.backbone.vision_n)[0]

    def _drawings(self, chosen: Sequence[Entity]) -> np.ndarray:
        """uint8[2 * chosen, S, S, 3]: the `shown` drawings."""
        side = self.backbone.vision.image_size
        return np.stack([drawing(i, source, side) for i, source in shown(chosen)])

    def contrasted(self, step: int) -> list[Entity]:
        """`pairs_n` entities, subcategory by subcategory, so that look-alikes meet."""
        n = self.cfg.pairs_n
        epoch, at = divmod(step, len(entities()) // n)
        rng = np.random.default_rng([self.cfg.seed, 4, epoch])
        groups = list(by_subcategory(entities()).values())
        order = [
            i
            for group in rng.permutation(len(groups))
            for i in rng.permutation([entity.id for entity in groups[group]])
        ]
        order = np.roll(order, -int(rng.integers(n)))  # no entity is always in the dropped tail
        return [entities()[i] for i in order[at * n : (at + 1) * n]]

    def image_rows(self, step: int) -> tuple[list[dict], list[Entity], np.random.Generator]:
        """Packed rows about both drawings of images_n / 2 entities, halves in one order.

        Returns:
            The rows, the entities of one half, and the step's generator as the rows left it.
        """
        half = self.cfg.images_n // 2
        per_epoch = len(self._order) // half
        epoch, at = divmod(step, per_epoch)
        order = np.random.default_rng([self.cfg.seed, 1, epoch]).permutation(self._order)
        rng = np.random.default_rng([self.cfg.seed, 2, step])
        chosen = [entities()[i] for i in order[at * half : (at + 1) * half]]
        rows = [self._image_row(rng, entity) for _ in SOURCES for entity in chosen]
        return rows, chosen, rng

    def batch_at(self, step: int) -> PretrainingBatch:
        """The batch of one step: image rows, text rows, strange rows, and drawings to contrast."""
        rows, chosen, rng = self.image_rows(step)
        rows += [self._text_row(rng) for _ in range(self.text_n)]
        strange = [self._strange_row(rng) for _ in range(self.cfg.strange_n)]
        rows, strange = stacked(rows), stacked(strange)
        vision = self.backbone.vision
        return PretrainingBatch(
            Batch(image=normalise(self._drawings(chosen), vision), **rows),
            Batch(image=np.zeros((self.cfg.strange_n, 1, 1, 3), np.float32), **strange),
            normalise(self._drawings(self.contrasted(step)), vision),
        )
