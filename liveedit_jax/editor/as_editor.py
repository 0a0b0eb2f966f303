"""LiveEdit as an `editors.RoutedEditor`: requests become experts, the state is a repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import liveedit
from liveedit_jax.editor.refine import refine_experts
from liveedit_jax.editor.repository import NEVER, add_edits, init_repository
from liveedit_jax.editor.routing import bodies, margin, route
from liveedit_jax.editors import RoutedEditor
from liveedit_jax.types import Query, Repository, Role


class LiveEditEncoding(NamedTuple):
    """The part of B rows that no edit changes."""

    hidden: Float[Array, "B T D"]  # the edit layer's output
    query: Query
    words: Float[Array, "B D"] | None = None  # `liveedit.prompt_words`


@dataclass(frozen=True)
class LiveEdit(RoutedEditor):
    """LiveEdit with its settings; `params["editor"]` is `liveedit.PreparedEditor`."""

    cfg: EditorConfig

    @property
    def add(self) -> liveedit.AddExperts:
        """Return the function that adds a plan's experts to hidden states."""
        return liveedit.AddExperts(self.cfg)

    def prepare(self, trained):
        """Fold the constants of trained weights."""
        return liveedit.prepare(self.cfg, trained)

    def encode(self, backbone, params, batch, seen):
        """Compute the edit layer's output and the routing query of B rows."""
        hidden = backbone.lower_from_features(params["backbone"], batch, seen)
        words = liveedit.prompt_words(self.cfg, backbone, params["backbone"], batch)
        query = liveedit.encode_query(self.cfg, params["editor"], hidden, batch.role, words)
        return LiveEditEncoding(hidden, query, words)

    def unedited_logits(self, backbone, params, known, batch, seen, at):
        """Run the layers after the edit layer."""
        return backbone.upper(params["backbone"], known.hidden, batch, at)

    def request(self, backbone, params, known, batch):
        """Make the experts of B requests."""
        weights, editor = params["backbone"], params["editor"]
        made = liveedit.generate_expert(self.cfg, editor, known.hidden, batch.role, known.words)
        return refine_experts(self.cfg, backbone, weights, editor.norm, made, known.hidden, batch)

    def init(self, backbone, params, capacity):
        """Create an empty repository."""
        return init_repository(self.cfg, backbone.cfg.width, capacity)

    def edit(self, backbone, params, state, known, batch):
        """Store experts, each under the number of its row as its id."""
        present = (batch.role != Role.PAD).any(-1)
        edit_id = state.used_n + jnp.arange(len(present), dtype=jnp.int32)
        return add_edits(state, known, edit_id, present)[0]

    def query(self, known):
        """Return the routing query."""
        return known.query

    def chunk(self, state: Repository, mark: int) -> Repository:
        """Make each row alive at its chunk's moment alone; rows are in the order of their edits."""
        row = np.arange(state.born.shape[0])
        used, chunk = row < int(state.used_n), row // mark
        born = np.where(used, chunk, NEVER).astype(np.int32)
        died = np.where(used, chunk + 1, NEVER).astype(np.int32)
        return state.replace(born=jnp.asarray(born), died=jnp.asarray(died))

    def route(self, params, state, query, at):
        """Route B queries as of clocks `at`, and compute the margin of each."""
        return route(self.cfg, state, query, at), margin(self.cfg, state, query, at)

    def plan(self, params, state, route):
        """Gather the routed experts of B queries."""
        return liveedit.RoutedExperts(
            params["editor"].norm, route.weight, *bodies(state, route.slot)
        )

    def logits(self, backbone, params, state, known, batch, at, route=None):
        """Run the model with the routed experts added at the edit layer."""
        if route is None:
            route, _ = self.route(params, state, known.query, None)
        hidden = self.add(self.plan(params, state, route), known.hidden, batch.role)
        hidden = backbone.keep_features(known.hidden, hidden, batch.role)
        return backbone.upper(params["backbone"], hidden, batch, at)
