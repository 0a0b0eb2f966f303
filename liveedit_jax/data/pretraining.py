"""The pretraining mixture of the small VLLM: packed questions on both drawings, and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import flax.struct
import numpy as np
from jaxtyping import Float, UInt8

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.config import PretrainConfig
from liveedit_jax.data.augment import augment, collage
from liveedit_jax.data.composed import (
    COMPOSED_SPLITS,
    SIDES,
    STEPS,
    TWO_FACTS,
    caption,
    caption_wordings,
    implications,
    is_held_out_scene,
    side_wordings,
    two_fact_wordings,
    two_step_answer,
)
from liveedit_jax.data.facts import (
    ENGLISH_FACTS,
    FACTS,
    LANGUAGES,
    SOURCES,
    Entity,
    entities,
    group_by_subcategory,
    other_source,
    pretraining_drawings,
)
from liveedit_jax.data.images import drawing, normalise_pixels
from liveedit_jax.data.packing import Question, collate_rows, pack_row
from liveedit_jax.data.paraphrases import draw_wordings
from liveedit_jax.data.templates import text_questions
from liveedit_jax.data.tokenise import tokenise_pair
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.types import Batch

STRANGE_MOST = 44  # tokens of a jumbled answer, at most
CAPTION_MOST = 80  # tokens of a caption, at most
ALIGNED_SPLIT = "editor_train"  # whose entities' pictures alone are aligned by the contrastive term


class PretrainingBatch(flax.struct.PyTreeNode):
    """One step: packed rows (images, then scenes, then text) and pairs for the contrastive term.

    The strange rows have the images of the first rows, and wrong or jumbled answers that only the
    loss terms on the edit layer's output see.
    """

    rows: Batch  # `image` holds those of the first rows alone
    scenes: Float[np.ndarray, "X 2 S S 3"]  # left and right drawing of the scene rows
    strange: Batch
    pairs: Float[np.ndarray, "2X S S 3"]  # one picture of each of X entities, then another one


@dataclass(frozen=True)
class PretrainingData:
    """Batches as a function of the step: rows about images, about scenes, and text-only rows."""

    tokenizer: Tokenizer
    backbone: BackboneConfig
    cfg: PretrainConfig
    length_n: int = 160  # T of a packed row

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        return {fact: [entity.facts[fact] for entity in entities()] for fact in FACTS}

    @cached_property
    def _entity_ids(self) -> np.ndarray:
        return np.array([entity.id for entity in entities()])

    def _value(self, rng, fact: str) -> str:
        """Draw some entity's value of a fact."""
        values = self._values[fact]
        return values[int(rng.integers(len(values)))]

    def _wordings(self, rng, fact: str, n: int) -> list[str]:
        return draw_wordings(rng, fact, n, self.cfg.paraphrase_share)

    def _tokenise(self, prompt: str, answer: str, has_image: bool = True) -> Question:
        between = self.backbone.after_image if has_image else ""
        return tokenise_pair(self.tokenizer, prompt, answer, between)

    def _fact_question(self, rng, entity: Entity, fact: str) -> Question:
        (wording,) = self._wordings(rng, fact, 1)
        return self._tokenise(wording, entity.facts[fact])

    def _in_context_question(self, rng, entity: Entity, has_image: bool) -> Question:
        """State a counterfactual fact and ask for it or, in a quarter of cases, another one."""
        fact = str(rng.choice(FACTS))
        stated = self._value(rng, fact)
        first, second = self._wordings(rng, fact, 2)
        answer = stated
        if has_image and rng.random() < 0.25:
            other = str(rng.choice([f for f in ENGLISH_FACTS if f != fact]))
            (second,), answer = self._wordings(rng, other, 1), entity.facts[other]
        return self._tokenise(f"Fact: {first} {stated}\n{second}", answer, has_image)

    def _two_fact_question(self, rng, entity: Entity) -> Question:
        """Draw a two-fact question; the prompt may state a counterfactual first fact."""
        first, second = TWO_FACTS[int(rng.integers(len(TWO_FACTS)))]
        question = str(rng.choice(two_fact_wordings(first, second, evaluation=False)))
        kind, value = rng.random(), entity.facts[first]
        if kind < self.cfg.silent_share:
            return self._tokenise(question, entity.facts[second])
        follows = entity.facts[second]
        question = f"{question} {STEPS}"
        if kind < self.cfg.silent_share + self.cfg.stated_share:
            stated = self._value(rng, first)
            if stated in implications(first, second):
                (wording,) = self._wordings(rng, first, 1)
                value, follows = stated, implications(first, second)[stated]
                question = f"Fact: {wording} {stated}\n{question}"
        return self._tokenise(question, two_step_answer(value, follows))

    def _caption_questions(self, rng, entity: Entity) -> list[Question]:
        """Draw a caption request, or none where the caption has more than CAPTION_MOST tokens."""
        first, second = map(str, rng.choice(list(LANGUAGES), 2, replace=False))
        wording = str(rng.choice(caption_wordings(first, second, evaluation=False)))
        prompt, answer = self._tokenise(wording, caption(entity.facts, first, second))
        return [(prompt, answer)] if len(answer) <= CAPTION_MOST else []

    def _pack(self, questions: Sequence[Question], vision_n: int) -> dict[str, np.ndarray]:
        return pack_row(questions, self.length_n, self.backbone.bos_id, vision_n)[0]

    def _image_row(self, rng, entity: Entity) -> dict[str, np.ndarray]:
        languages = list(rng.choice(list(LANGUAGES), self.cfg.languages_n, replace=False))
        facts = [*ENGLISH_FACTS, *languages]
        if self.cfg.english_n < len(ENGLISH_FACTS):
            english = rng.choice(ENGLISH_FACTS, self.cfg.english_n, replace=False)
            facts = [str(fact) for fact in rng.permutation([*english, *languages])]
        composed = entity.split in COMPOSED_SPLITS and self.cfg.composed_share > 0
        if composed and rng.random() < self.cfg.composed_share:
            questions = self._caption_questions(rng, entity)
            questions += [self._two_fact_question(rng, entity) for _ in range(3)]
            questions += [
                self._fact_question(rng, entity, str(fact)) for fact in rng.permutation(facts)
            ]
        else:
            questions = [self._fact_question(rng, entity, str(fact)) for fact in facts]
            questions.insert(5, self._in_context_question(rng, entity, True))
        return self._pack(questions, self.backbone.vision_n)

    def _scene(self, rng) -> tuple[Entity, Entity]:
        """Draw a left and a right entity whose scene is not kept for evaluation."""
        while True:
            left, right = (entities()[i] for i in rng.choice(len(entities()), 2, replace=False))
            if not is_held_out_scene(left, right):
                return left, right

    def _scene_row(self, rng, scene: tuple[Entity, Entity]) -> dict[str, np.ndarray]:
        questions = []
        for _ in range(8):
            place = int(rng.integers(2))
            fact = str(rng.choice(ENGLISH_FACTS if rng.random() < 0.7 else list(LANGUAGES)))
            (wording,) = self._wordings(rng, fact, 1)
            asked = str(rng.choice(side_wordings(wording, SIDES[place], evaluation=False)))
            questions.append(self._tokenise(asked, scene[place].facts[fact]))
        return self._pack(questions, len(SIDES) * self.backbone.vision_n)

    def _text_row(self, rng) -> dict[str, np.ndarray]:
        questions = []
        for _ in range(8):
            entity = entities()[int(rng.integers(len(entities())))]
            fact = str(rng.choice(FACTS))
            if rng.random() < 0.3:
                questions.append(self._in_context_question(rng, entity, False))
            else:
                question = str(rng.choice(text_questions(fact, entity.facts)))
                questions.append(self._tokenise(question, entity.facts[fact], False))
        return self._pack(questions, 0)

    def _strange_question(self, rng, fact: str, question: str) -> Question:
        """Give a question a strange answer: some entity's value or (half of them) jumbled tokens.

        The jumbled tokens are those of several values or, in a quarter of the cases, any tokens of
        the vocabulary.
        """
        prompt, answer = self._tokenise(question, self._value(rng, fact))
        if rng.random() < 0.5:
            for other in rng.choice(FACTS, 7):
                answer = [*answer, *self._tokenise(question, self._value(rng, str(other)))[1]]
            most = int(rng.integers(1, min(len(answer), STRANGE_MOST) + 1))
            answer = [int(token) for token in rng.permutation(answer)[:most]]
            if rng.random() < 0.25:
                lowest = 1 + max(self.backbone.bos_id, self.backbone.eos_id, self.backbone.pad_id)
                vocab_n = self.tokenizer.vocab_n
                answer = [int(token) for token in rng.integers(lowest, vocab_n, most)]
        return prompt, answer

    def _strange_row(self, rng) -> dict[str, np.ndarray]:
        questions = []
        for _ in range(12):
            fact = str(rng.choice(FACTS))
            (question,) = self._wordings(rng, fact, 1)
            questions.append(self._strange_question(rng, fact, question))
        return self._pack(questions, self.backbone.vision_n)

    def _drawing(self, entity_id: int, source: str) -> UInt8[np.ndarray, "S S 3"]:
        return drawing(entity_id, source, self.backbone.vision.image_size)

    def _pictures(self, rng, chosen: Sequence[Entity]) -> UInt8[np.ndarray, "2X S S 3"]:
        """Stack the `pretraining_drawings`; some of ALIGNED_SPLIT are shown in a random view."""
        pictures = []
        for i, source in pretraining_drawings(chosen):
            picture, split = self._drawing(i, source), entities()[i].split
            if split == ALIGNED_SPLIT and rng.random() < self.cfg.view_share:
                picture = augment(rng, picture, mirror=False)
            pictures.append(picture)
        return np.stack(pictures)

    @cached_property
    def _aligned_entities(self) -> tuple[Entity, ...]:
        return tuple(e for e in entities() if e.split == ALIGNED_SPLIT and e.held_out is None)

    def contrast_entities(self, step: int) -> list[Entity]:
        """Choose `pairs_n` entities, subcategory by subcategory, so that look-alikes meet."""
        n, chosen = self.cfg.pairs_n, self._aligned_entities
        epoch, at = divmod(step, len(chosen) // n)
        rng = np.random.default_rng([self.cfg.seed, 4, epoch])
        groups = list(group_by_subcategory(chosen).values())
        order = [
            i
            for group in rng.permutation(len(groups))
            for i in rng.permutation([entity.id for entity in groups[group]])
        ]
        rolled = np.roll(order, -int(rng.integers(n)))  # each epoch drops another tail
        return [entities()[i] for i in rolled[at * n : (at + 1) * n]]

    def pairs(self, step: int) -> UInt8[np.ndarray, "2X S S 3"]:
        """Stack one picture of each contrasted entity, then a second picture of each.

        The second is the other drawing; with `view_share`, it is a view of either drawing, and the
        first `collages_n` pairs are two views of a collage instead.
        """
        rng = np.random.default_rng([self.cfg.seed, 5, step])
        chosen = self.contrast_entities(step)
        first, second = np.split(
            np.stack([self._drawing(*one) for one in pretraining_drawings(chosen)]), 2
        )
        if self.cfg.view_share:
            swap = (rng.random(len(chosen)) < 0.5)[:, None, None, None]
            first, second = np.where(swap, second, first), np.where(swap, first, second)
            same = (rng.random(len(chosen)) < 0.5)[:, None, None, None]
            second = np.where(same, first, second)
            collages = [
                collage(
                    rng,
                    list(first[rng.choice(len(first), int(rng.integers(1, 5)), replace=False)]),
                )
                for _ in range(self.cfg.collages_n)
            ]
            for i, made in enumerate(collages):
                first[i], second[i] = augment(rng, made, mirror=False), made
            second = np.stack([augment(rng, picture, mirror=True) for picture in second])
        return np.concatenate([first, second])

    def image_rows(self, step: int) -> tuple[list[dict], list[Entity], np.random.Generator]:
        """Pack rows about both drawings of `images_n` / 2 entities: all of one, then of the other.

        Returns:
            The rows, the entities in the order of each half, and the step's generator after that.
        """
        half = self.cfg.images_n // 2
        per_epoch = len(self._entity_ids) // half
        epoch, at = divmod(step, per_epoch)
        order = np.random.default_rng([self.cfg.seed, 1, epoch]).permutation(self._entity_ids)
        rng = np.random.default_rng([self.cfg.seed, 2, step])
        chosen = [entities()[i] for i in order[at * half : (at + 1) * half]]
        rows = [self._image_row(rng, entity) for _ in SOURCES for entity in chosen]
        return rows, chosen, rng

    def batch_at(self, step: int) -> PretrainingBatch:
        """Return the batch of one step."""
        rows, chosen, rng = self.image_rows(step)
        images = self._pictures(rng, chosen)
        side, drawn = images.shape[1], []
        for _ in range(self.cfg.scenes_n):
            scene = self._scene(rng)
            rows.append(self._scene_row(rng, scene))
            fixed = [entity.held_out and other_source(entity.held_out) for entity in scene]
            sources = [source or str(rng.choice(SOURCES)) for source in fixed]
            drawn += [self._drawing(e.id, s) for e, s in zip(scene, sources, strict=True)]
        scenes = np.array(drawn, np.uint8).reshape(-1, len(SIDES), side, side, 3)
        rows += [self._text_row(rng) for _ in range(self.cfg.text_n)]
        strange = [self._strange_row(rng) for _ in range(self.cfg.strange_n)]
        vision = self.backbone.vision
        return PretrainingBatch(
            Batch(image=normalise_pixels(images, vision), **collate_rows(rows)),
            normalise_pixels(scenes, vision),
            Batch(image=np.zeros((len(strange), 1, 1, 3), np.float32), **collate_rows(strange)),
            normalise_pixels(self.pairs(step), vision),
        )
