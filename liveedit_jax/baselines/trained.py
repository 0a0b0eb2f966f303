"""Editors that are trained before they edit: what their training has in common.

All learn from the samples that LiveEdit's training draws (`data/editing.py`): an edit, the question
in other words, on the other drawing, and an unedited question about a picture; here also an
unedited question without one. Weights of the model stay frozen.
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
from liveedit_jax.data.templates import text_questions
from liveedit_jax.data.tokenise import tokenise_pair, without_pixels
from liveedit_jax.editors import Editor
from liveedit_jax.training.optimizers import TrainState, advance, begin
from liveedit_jax.types import Batch


@dataclass(frozen=True)
class TrainingRecipe:
    """How an editor is trained: Adam with warm-up and a cosine to zero."""

    steps_n: int = 2_000
    batch_n: int = 16  # samples a step
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    clip_norm: float = 1.0
    seed: int = 0

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Clipping, then Adam."""
        adam = optax.adam(self.schedule(self.learning_rate))
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adam)

    def schedule(self, rate: float) -> optax.Schedule:
        """Warm-up to this rate, then a cosine to zero."""
        warmup_n = min(self.warmup_steps, self.steps_n // 2)  # of short runs
        return optax.warmup_cosine_decay_schedule(0.0, rate, warmup_n, self.steps_n)


class LessonRows(NamedTuple):
    """N rows and what the editor takes of their pictures (`Editor.see`)."""

    batch: Batch
    seen: Float[Array, "N P D"]


class Lesson(NamedTuple):
    """N samples; row i of all five belongs to sample i."""

    edit: LessonRows
    text_generality: LessonRows
    image_generality: LessonRows
    image_locality: LessonRows
    text_locality: LessonRows


class TrainedEditor(Editor, Protocol):
    """An editor with weights of its own, `params["editor"]`."""

    recipe: TrainingRecipe

    def init_params(self, backbone: Backbone, weights: dict, key: Array) -> dict:
        """Fresh weights for a backbone with these frozen ones."""

    def loss(
        self, backbone: Backbone, params: dict, lesson: Lesson, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """What training lowers, and its parts by name; `params["editor"]` is differentiated."""


class LessonBatch(NamedTuple):
    """One step of training on the host."""

    images: EditingBatch  # four rows a sample
    token: Int[np.ndarray, "N T"]  # the fifth, without a picture
    role: Int[np.ndarray, "N T"]


@dataclass(frozen=True)
class LessonData:
    """Batches as a function of the step."""

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
        """The batch of one step; its text questions are as short as its other rows."""
        images = self.data.batch_at(step)
        n, t = images.token.shape[1:]
        rng, rows = np.random.default_rng([self.data.cfg.seed, 7, step]), []
        while len(rows) < n:
            prompt, answer = self._texts[int(rng.integers(len(self._texts)))]
            if 1 + len(prompt) + len(answer) <= t:
                rows.append([((prompt, answer), 0)])
        texts = collate_samples(self.data.backbone, 0, rows, t)
        return LessonBatch(images, texts.token[0], texts.role[0])


def make_lesson(batch: LessonBatch, pictures: Float[Array, "X P D"]) -> Lesson:
    """Rows with what is seen of their pictures; `pictures` are those that the rows name."""
    asked = [
        LessonRows(without_pixels(batch.images.token[k], batch.images.role[k]), pictures[shown])
        for k, shown in enumerate(batch.images.picture)
    ]
    blank = jnp.zeros_like(asked[0].seen)
    return Lesson(*asked, LessonRows(without_pixels(batch.token, batch.role), blank))


def init_state(editor: TrainedEditor, backbone: Backbone, weights: dict) -> TrainState:
    """Fresh weights and optimiser state."""
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
    """One optimiser step."""
    key = jax.random.fold_in(jax.random.key(editor.recipe.seed + 1), state.step)
    lesson = make_lesson(batch, pictures)

    def loss(trained: dict):
        params = {"backbone": weights, "editor": trained}
        value, scalars = editor.loss(backbone, params, lesson, key)
        return value, scalars | {"loss": value}

    grads, scalars = jax.grad(loss, has_aux=True)(state.params)
    scalars["gradient_norm"] = optax.global_norm(grads)
    return advance(editor.recipe.optimizer, state, grads), scalars
