"""Training of the baselines that are trained before they edit.

All learn from the samples of LiveEdit's training (`data/editing.py`): an edit, its rephrase, its
question on another picture, and an unedited question about a picture. An unedited question without
a picture is added here. The model's weights stay frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.data.editing import EditingBatch, EditingData, collate_samples
from liveedit_jax.data.facts import TRAINED_FACTS
from liveedit_jax.data.layout import NO_PICTURE
from liveedit_jax.data.packing import Question
from liveedit_jax.data.templates import text_questions
from liveedit_jax.data.tokenise import tokenise_pair, without_pixels
from liveedit_jax.editors import Editor
from liveedit_jax.training.optimizers import TrainState, advance, begin
from liveedit_jax.types import Batch


@dataclass(frozen=True)
class TrainingRecipe:
    """An editor's training recipe: Adam with warm-up and cosine decay to zero."""

    steps_n: int = 2_000
    batch_n: int = 16  # samples a step
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    clip_norm: float = 1.0
    seed: int = 0

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Return gradient clipping followed by Adam."""
        adam = optax.adam(self.schedule(self.learning_rate))
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adam)

    def schedule(self, rate: float) -> optax.Schedule:
        """Return the schedule: warm-up to this rate, then cosine decay to zero."""
        warmup_n = min(self.warmup_steps, self.steps_n // 2)  # of short runs
        return optax.warmup_cosine_decay_schedule(0.0, rate, warmup_n, self.steps_n)


class LessonRows(NamedTuple):
    """N rows, and what `Editor.encode_image` computes from their pictures."""

    batch: Batch
    seen: Float[Array, "N P D"]


class Lesson(NamedTuple):
    """N samples of five kinds of rows; row i of each kind belongs to sample i."""

    edit: LessonRows
    text_generality: LessonRows
    image_generality: LessonRows
    image_locality: LessonRows
    text_locality: LessonRows


class TrainedEditor(Editor, Protocol):
    """An editor with weights of its own, `params["editor"]`."""

    recipe: TrainingRecipe

    def init_params(self, backbone: Backbone, weights: dict, key: Array) -> dict:
        """Initialise the editor's weights for a backbone with these frozen weights."""

    def loss(
        self, backbone: Backbone, params: dict, lesson: Lesson, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the training loss and its terms by name; `params["editor"]` is differentiated."""


class LessonBatch(NamedTuple):
    """The numpy arrays of one training step."""

    images: EditingBatch  # four rows a sample
    token: Int[np.ndarray, "N T"]  # the fifth row, without a picture
    role: Int[np.ndarray, "N T"]


@dataclass(frozen=True)
class LessonData:
    """Training batches as a function of the step."""

    data: EditingData

    @cached_property
    def _texts(self) -> list:
        tokenizer = self.data.tokenizer
        return [
            tokenise_pair(tokenizer, question, entity.facts[fact], "")
            for entity in self.data.entities
            for fact in TRAINED_FACTS
            for question in text_questions(fact, entity.facts)
        ]

    def batch_at(self, step: int) -> LessonBatch:
        """Return the batch of one step; its text questions fit the length of the other rows."""
        images = self.data.batch_at(step)
        n, t = images.token.shape[1:]
        rng = np.random.default_rng([self.data.cfg.seed, 7, step])
        rows: list[list[tuple[Question, int]]] = []
        while len(rows) < n:
            prompt, answer = self._texts[int(rng.integers(len(self._texts)))]
            if 1 + len(prompt) + len(answer) <= t:
                rows.append([((prompt, answer), 0)])
        texts = collate_samples(self.data.backbone, rows, t, lambda _: NO_PICTURE)
        return LessonBatch(images, texts.token[0], texts.role[0])


def make_lesson(batch: LessonBatch, pictures: Float[Array, "X P D"]) -> Lesson:
    """Make a lesson of a batch; its rows index `pictures`, results of `encode_image`."""
    rows = batch.images

    def pictured(k: int) -> LessonRows:
        place = None if rows.place is None else rows.place[k]
        return LessonRows(
            without_pixels(rows.token[k], rows.role[k]).replace(place=place),
            pictures[rows.picture[k]],
        )

    edit, text, image, locality = map(pictured, range(4))
    texts = without_pixels(batch.token, batch.role)
    if rows.place is not None:
        texts = texts.replace(place=jnp.zeros_like(rows.place[0]))
    unseen = LessonRows(texts, jnp.zeros_like(edit.seen))
    return Lesson(edit, text, image, locality, unseen)


def init_state(editor: TrainedEditor, backbone: Backbone, weights: dict) -> TrainState:
    """Initialise an editor's weights and optimiser state."""
    key = jax.random.key(editor.recipe.seed)
    params = jax.jit(lambda key: editor.init_params(backbone, weights, key))(key)
    return begin(editor.recipe.optimizer, params)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def train_step(
    editor: TrainedEditor,
    backbone: Backbone,
    weights: dict,
    pictures: Float[Array, "X P D"],
    state: TrainState,
    batch: LessonBatch,
) -> tuple[TrainState, dict]:
    """Take one optimiser step; return the new state and scalars to log."""
    key = jax.random.fold_in(jax.random.key(editor.recipe.seed + 1), state.step)
    lesson = make_lesson(batch, pictures)

    def loss(trained: dict):
        params = {"backbone": weights, "editor": trained}
        value, scalars = editor.loss(backbone, params, lesson, key)
        return value, scalars | {"loss": value}

    grads, scalars = jax.grad(loss, has_aux=True)(state.params)
    scalars["gradient_norm"] = optax.global_norm(grads)
    return advance(editor.recipe.optimizer, state, grads), scalars
