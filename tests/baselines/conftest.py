"""A micro model, one request, and some questions for every baseline."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import pytest

from liveedit_jax.backbone_config import BackboneConfig, ClipConfig, LlamaConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.baselines.trained import Lesson, LessonRows, init_state
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.training.optimizers import advance
from liveedit_jax.types import Batch

CFG = BackboneConfig(
    vision=ClipConfig(image_size=8, patch_size=4, width=16, layers_n=2, heads_n=2, mlp_width=16),
    decoder=LlamaConfig(
        vocab_n=50, width=16, layers_n=3, heads_n=2, kv_heads_n=1, head_width=8, mlp_width=24
    ),
    edit_layer=1,
)
ROLE = np.asarray([[1, 2, 2, 2, 2, 3, 3, 4, 4, 0]], np.int8)
TOKEN = np.asarray([[1, 0, 0, 0, 0, 7, 8, 9, 10, 0]], np.int32)


class Micro(NamedTuple):
    """A random model, a request of one row, and the positions that predict its answer and EOS."""

    backbone: Backbone
    params: dict
    batch: Batch
    at: np.ndarray


@pytest.fixture(scope="session")
def micro() -> Micro:
    """The micro model; its editor has no weights."""
    backbone = Backbone(CFG)
    weights = jax.jit(backbone.init)(jax.random.key(0))
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    params = {"backbone": weights, "editor": None}
    return Micro(backbone, params, Batch(TOKEN, ROLE, image), np.asarray([[6, 7, 8]]))


@pytest.fixture(scope="session")
def lesson(micro) -> Lesson:
    """Two random samples of a trained editor; each edit and its image generality read alike."""
    rng, n = np.random.default_rng(1), 2
    role = np.repeat(ROLE, n, axis=0)
    plain = np.asarray([[1, 3, 3, 3, 4, 4, 0, 0, 0, 0]] * n, np.int8)
    token = rng.integers(3, 50, size=(len(Lesson._fields), *role.shape)).astype(np.int32)
    token[1][role == 4] = token[0][role == 4]  # the text generality is answered like the edit
    token[2] = token[0]
    seen = rng.normal(size=(len(token), n, 4, CFG.width)).astype(np.float32)
    seen[1], seen[4] = seen[0], 0
    roles = [role] * 4 + [plain]
    rows = [without_pixels(*row) for row in zip(token, roles, strict=True)]
    return Lesson(*(LessonRows(*row) for row in zip(rows, seen, strict=True)))


@pytest.fixture(scope="session")
def taught(micro, lesson):
    """Trains an editor on that lesson by its recipe: its losses at the first and the last step."""

    def run(editor) -> tuple[dict, dict]:
        state = init_state(editor, micro.backbone, micro.params["backbone"])

        @jax.jit
        def step(state):
            def loss(own):
                params = micro.params | {"editor": own}
                return editor.loss(micro.backbone, params, lesson, jax.random.key(0))

            grads, terms = jax.grad(loss, has_aux=True)(state.params)
            return advance(editor.recipe.optimizer, state, grads), terms

        seen = []
        for _ in range(editor.recipe.steps_n):
            state, terms = step(state)
            seen.append(terms)
        return seen[0], seen[-1]

    return run
