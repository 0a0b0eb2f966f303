"""A frozen vision-language model in memory, and what it says without any edit.

model = open_model("tiny")
model.answer("cat.png", "What is this?")
model.logits([("cat.png", "What is this?", "a cat")])[0].shape  # (A, V)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.generation import Intervene, generate
from liveedit_jax.cache import keep_compiled
from liveedit_jax.data.images import ProcessedImage, preprocess, square_layout
from liveedit_jax.data.tokenise import Example, round_up, tokenise
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.model_io.model import Model, load_model
from liveedit_jax.session.images import Image, read_image
from liveedit_jax.types import Batch, Role

BATCH_N = 16  # rows of a batch, where there are several
LENGTH_STEP = 16  # lengths of questions that are asked together are multiples of it
ANSWER_STEP = 8  # and so are the numbers of positions whose logits are computed

Question = tuple[Image | None, str]  # a picture (None: without one) and a prompt
AnsweredQuestion = tuple[Image | None, str, str]  # and an answer


class AnswerBatch(NamedTuple):
    """Rows that end with an answer, and where it is predicted."""

    rows: Batch
    position: Int[np.ndarray, "B A"]  # the last ones again where an answer is shorter
    length: list[int]  # tokens of each answer, of the rows that are not padding


@partial(jax.jit, static_argnums=0)
def _features(backbone: Backbone, weights: dict, image: Array) -> Float[Array, "B P D"]:
    return backbone.vision_features(weights, image)


@partial(jax.jit, static_argnums=0)
def _logits(
    backbone: Backbone,
    weights: dict,
    batch: Batch,
    features: Float[Array, "B P D"],
    position: Int[Array, "B A"],
) -> Float[Array, "B A V"]:
    hidden = backbone.lower_from_features(weights, batch, features)
    return backbone.upper(weights, hidden, batch, position)


class OpenModel:
    """A model that has been opened, with its tokenizer; use `open_model`.

    Pictures are image files' names or their bytes (`Image`), read and decoded once.
    """

    def __init__(self, parts: Model, name: str, chat: bool = False, is_saved: bool = True):
        """Take a loaded model.

        Args:
            parts: weights, tokenizer and config.
            name: what a person calls it: a preset or a folder.
            chat: apply the model's chat template.
            is_saved: whether its folder has this editor; else only this process does.

        Raises:
            ValueError: the model has no chat template.
        """
        self.parts, self.name, self.is_saved = parts, name, is_saved
        self.chat = parts.config.backbone.chat if chat else None
        if chat and self.chat is None:
            raise ValueError(f"the model in {parts.folder} has no chat template")
        self.backbone, self.weights = Backbone(parts.config.backbone), parts.backbone
        self.budget = parts.config.dataset.budget

    @property
    def tokenizer(self) -> Tokenizer:
        """Give the model's tokenizer."""
        return self.parts.tokenizer

    @property
    def tokens_n(self) -> int:
        """Count the most tokens of an answer: twice a target's, and 8."""
        return 2 * self.budget.answer_n + 8

    def with_chat(self, chat: bool) -> OpenModel:
        """Give the same model with or without its chat template.

        Raises:
            ValueError: the model has no chat template.
        """
        if chat == (self.chat is not None):
            return self
        return OpenModel(self.parts, self.name, chat, self.is_saved)

    def check(self, prompt: str, target: str | None = None, has_image: bool = True) -> None:
        """Refuse texts that the model does not take.

        Raises:
            ValueError: an empty text, or one longer than the budget.
        """
        self.batch([Example(prompt, target, *self._stand_in(has_image))])

    def _stand_in(self, has_image: bool) -> ProcessedImage:
        """Make up a picture that takes as many tokens as a real one."""
        if not has_image:
            return ProcessedImage(None)
        return ProcessedImage(None, square_layout(self.backbone.cfg))

    def example(self, image: Image | None, prompt: str, target: str | None = None) -> Example:
        """Read a row of texts and a picture, and decode the picture.

        Raises:
            FileNotFoundError: no such image file.
            ValueError: an unreadable picture, or texts as in `check`.
        """
        self.check(prompt, target, has_image=image is not None)
        if image is None:
            return Example(prompt, target, None)
        file = read_image(image)
        picture = preprocess(self.backbone.cfg, file.data, file.name or "the picture")
        return Example(prompt, target, *picture)

    def batch(self, examples: Sequence[Example], rows_n: int | None = None) -> Batch:
        """Tokenise rows; up to `rows_n` of them, the last one is there again."""
        cfg = self.backbone.cfg
        batch = tokenise(self.tokenizer, cfg, examples, self.budget, self.chat)
        more_n = (rows_n or len(examples)) - len(examples)
        if not more_n:
            return batch
        row = np.minimum(np.arange(len(examples) + more_n), len(examples) - 1)
        return jax.tree.map(lambda leaf: leaf[row], batch)

    def prompts(self, examples: Sequence[Example], rows_n: int | None = None) -> Batch:
        """Tokenise rows without their targets, no longer than they need to be.

        A single one has always the same length: it is compiled once.
        """
        batch = self.batch([replace(example, target=None) for example in examples], rows_n)
        length_n = batch.token.shape[1] - self.budget.answer_n
        return trim(batch, length_n) if len(batch.token) > 1 else _cut(batch, length_n)

    def question_batches(self, questions: Sequence[Question]) -> Iterator[tuple[int, Batch]]:
        """Cut questions into batches of prompts, with how many of each batch's rows are theirs."""
        rows_n = 1 if len(questions) == 1 else BATCH_N
        for at in range(0, len(questions), BATCH_N):
            part = [self.example(*question) for question in questions[at : at + BATCH_N]]
            yield len(part), self.prompts(part, rows_n)

    def answer_batches(self, rows: Sequence[AnsweredQuestion]) -> Iterator[AnswerBatch]:
        """Cut rows that end with an answer into batches."""
        rows_n = 1 if len(rows) == 1 else BATCH_N
        for at in range(0, len(rows), BATCH_N):
            part = [self.example(*row) for row in rows[at : at + BATCH_N]]
            batch = self.batch(part, rows_n)
            batch = trim(batch)
            is_answer = np.asarray(batch.role) == Role.ANSWER
            first, length = is_answer.argmax(1)[:, None], is_answer.sum(1)
            step = np.arange(round_up(int(length.max()), ANSWER_STEP))
            position = first - 1 + np.minimum(step, length[:, None] - 1)
            yield AnswerBatch(batch, position.astype(np.int32), length[: len(part)].tolist())

    def features(self, batch: Batch) -> Float[Array, "B P D"]:
        """Compute the vision features of a batch's pictures."""
        return _features(self.backbone, self.weights, batch.image)

    def generate(
        self,
        batch: Batch,
        features: Float[Array, "B P D"],
        tokens_n: int | None = None,
        plan: Any = None,
        intervene: Intervene | None = None,
    ) -> list[str]:
        """Continue prompts greedily to the end of sequence; return texts without outer spaces.

        Args:
            batch: of `prompts`.
            features: of its pictures.
            tokens_n: the most tokens of an answer (None, and at most: the model's `tokens_n`).
            plan, intervene: as in `backbones.generation.generate`.

        Raises:
            ValueError: tokens_n < 1.
        """
        if tokens_n is not None and tokens_n < 1:
            raise ValueError(f"tokens_n={tokens_n}: an answer has 1 token or more")
        steps_n = self.tokens_n
        most = min(tokens_n or steps_n, steps_n)
        ids = generate(
            self.backbone, self.weights, batch, steps_n, plan, intervene, most, features=features
        )
        return [self.tokenizer.decode(row).strip() for row in np.asarray(ids)]

    def answer(self, image: Image | None, prompt: str, tokens_n: int | None = None) -> str:
        """Answer a question.

        Args:
            image: a picture; None: the question has none.
            prompt: the question.
            tokens_n: the most tokens of the answer (None, and at most: twice a target's, and 8).

        Raises:
            FileNotFoundError: no such image file.
            ValueError: an unreadable picture, or an empty or too long prompt.
        """
        return next(self.answer_many([(image, prompt)], tokens_n))

    def answer_many(
        self, questions: Sequence[Question], tokens_n: int | None = None
    ) -> Iterator[str]:
        """Answer questions in their order, several at a time; arguments and errors as `answer`."""
        for n, batch in self.question_batches(list(questions)):
            yield from self.generate(batch, self.features(batch), tokens_n)[:n]

    def logits(self, rows: Sequence[AnsweredQuestion]) -> list[Float[np.ndarray, "A V"]]:
        """Compute the logits that predict the answers' tokens, given all before each of them.

        Args:
            rows: pictures (None: without one), prompts and answers.

        Returns:
            For each row f32[A, V]: position a predicts token a of `answer_ids`.

        Raises:
            FileNotFoundError: no such image file.
            ValueError: an unreadable picture, or an empty or too long text.
        """
        found = []
        for batch, position, length in self.answer_batches(list(rows)):
            features = self.features(batch)
            made = np.asarray(_logits(self.backbone, self.weights, batch, features, position))
            found += [made[b, :answer_n].copy() for b, answer_n in enumerate(length)]
        return found

    def answer_ids(self, rows: Sequence[AnsweredQuestion]) -> list[Int[np.ndarray, " A"]]:
        """Tokenise the answers of rows as `logits` does; pictures are not read."""
        found = []
        for image, prompt, answer in rows:
            batch = self.batch([Example(prompt, answer, *self._stand_in(image is not None))])
            found.append(np.asarray(batch.token)[np.asarray(batch.role) == Role.ANSWER])
        return found


def _cut(batch: Batch, length_n: int) -> Batch:
    """Leave out the columns after the first `length_n`."""
    named = {"token": batch.token, "role": batch.role, "place": batch.place}
    cut = {name: leaf[:, :length_n] for name, leaf in named.items() if leaf is not None}
    return batch.replace(**cut)


def trim(batch: Batch, most_n: int | None = None) -> Batch:
    """Leave out columns of padding, and all after the first `most_n`; few lengths are compiled."""
    longest_n = int((batch.role != Role.PAD).sum(1).max())
    most_n = batch.token.shape[1] if most_n is None else most_n
    return _cut(batch, min(most_n, round_up(longest_n, LENGTH_STEP)))


def open_model(name_or_folder: str | Path = "tiny", chat: bool = False) -> OpenModel:
    """Open a model, with its editor where it has one.

    Args:
        name_or_folder: a preset's name or a model folder.
        chat: apply the model's chat template.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a damaged model, or one without a chat template.
    """
    keep_compiled()
    return OpenModel(load_model(name_or_folder, need_editor=False), str(name_or_folder), chat)
