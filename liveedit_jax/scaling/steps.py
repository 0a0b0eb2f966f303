"""The steps of a pod as functions of arrays on a mesh: train, edit, query, generate.

Training steps are jitted such that their outputs have the sharding that the next step expects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.generation import generate
from liveedit_jax.backbones.placement import place_weights
from liveedit_jax.config import EditorTrainConfig, Preset
from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.editor import liveedit
from liveedit_jax.scaling import repository as sharded
from liveedit_jax.scaling.mesh import batch_sharding, replicated
from liveedit_jax.scaling.partition import (
    backbone_on_mesh,
    backbone_shardings,
    editor_shardings,
)
from liveedit_jax.training.editor import (
    Lower,
    editor_step,
    init_state,
    lower_from_images,
    lower_states,
)
from liveedit_jax.training.optimizers import TrainState
from liveedit_jax.types import Batch, Repository, Route


@dataclass(frozen=True)
class Pod:
    """A preset whose steps run on a mesh."""

    mesh: Mesh
    config: Preset

    @cached_property
    def backbone(self) -> Backbone:
        """Return the preset's backbone, with its placement on the mesh."""
        return backbone_on_mesh(self.mesh, self.config.backbone)

    def weight_shardings(self, weights):
        """Return the sharding of every leaf of the backbone's weights."""
        return backbone_shardings(self.mesh, self.config.backbone, weights)

    def init_state(self, recipe: EditorTrainConfig, key: Array) -> TrainState:
        """Initialise the editor's params and optimiser state, split over the mesh."""
        make = partial(init_state, Backbone(self.config.backbone), self.config.editor, recipe)
        place = editor_shardings(self.mesh, jax.eval_shape(make, key))
        return jax.jit(make, out_shardings=place)(key)

    def train_step(
        self, recipe: EditorTrainConfig, state: TrainState, lower: Lower = lower_from_images
    ):
        """Jit the step (weights, shown, state, batch) -> (state, scalars); it donates the state.

        Args:
            recipe: how the editor is trained.
            state: its state, or its shapes.
            lower: how states at the edit layer are obtained from `shown` (training/editor.py).
        """

        def run(weights: dict, shown: Array, state: TrainState, batch: EditingBatch):
            editor = self.config.editor
            return editor_step(self.backbone, editor, recipe, lower, weights, shown, state, batch)

        place = editor_shardings(self.mesh, state)
        return jax.jit(run, donate_argnums=2, out_shardings=(place, replicated(self.mesh)))

    def states(self, recipe: EditorTrainConfig):
        """Jit (weights, images, batch) -> states at the edit layer, split by sample."""

        def run(weights: dict, images: Float[Array, "N 3 ..."], batch: EditingBatch):
            return lower_states(self.backbone, recipe, lower_from_images, weights, images, batch)

        place = batch_sharding(self.mesh, int(recipe.accumulate_n > 1))
        return jax.jit(run, out_shardings=place)

    def _prepare(self, params: dict) -> liveedit.PreparedEditor:
        gathered = place_weights(self.backbone.placement("editor"), params)
        return liveedit.prepare(self.config.editor, gathered)

    def edit(
        self, weights: dict, params: dict, repo: Repository, batch: Batch, ids: Int[Array, " N"],
        valid: Array,
    ) -> tuple[Repository, Int[Array, " N"]]:  # fmt: skip
        """Apply N edits as `liveedit.edit` does; every device stores the rows it holds."""
        editor = self._prepare(params)
        made = liveedit.make_experts(self.config.editor, self.backbone, weights, editor, batch)
        return sharded.add_edits(self.mesh, repo, made, ids, valid)

    def query(
        self, weights: dict, params: dict, repo: Repository, batch: Batch, at: Int[Array, "B A"]
    ) -> tuple[Float[Array, "B A V"], Route]:
        """Compute the edited model's logits at positions `at`, and the routes."""
        cfg, editor = self.config.editor, self._prepare(params)
        hidden = self.backbone.lower(weights, batch)
        query = liveedit.queries_of_batch(cfg, self.backbone, weights, editor, batch, hidden)
        added, found = sharded.route_and_apply(
            self.mesh, cfg, editor, repo, query, hidden, batch.role
        )
        changed = self.backbone.keep_features(hidden, hidden + added, batch.role)
        return self.backbone.upper(weights, changed, batch, at), found

    def generate(
        self, weights: dict, params: dict, repo: Repository, batch: Batch, steps_n: int
    ) -> tuple[Int[Array, "B steps"], Route]:
        """Generate greedy continuations of B prompts with the edited model, and the routes."""
        cfg, editor = self.config.editor, self._prepare(params)
        hidden = self.backbone.lower(weights, batch)
        query = liveedit.queries_of_batch(cfg, self.backbone, weights, editor, batch, hidden)
        plan, found = sharded.route_and_gather(self.mesh, cfg, editor.norm, repo, query)
        adding = liveedit.AddExperts(cfg)
        return generate(self.backbone, weights, batch, steps_n, plan, adding), found
