"""Inputs of `scale_repository`: a random editor and states, and keys with known numbers of hits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from liveedit_jax.config import StorageConfig
from liveedit_jax.editor import liveedit, repository, rows
from liveedit_jax.editor.routing import similarity_scale
from liveedit_jax.presets import PAPER_EDITOR
from liveedit_jax.types import Expert, Query, Repository, Role

CFG = replace(PAPER_EDITOR, top_k=16)  # M 1024, R 4, E 4: the paper's
VISION_N = {192: 25, 2560: 32, 4096: 576}  # tokens of a picture, by width: tiny, BLIP2, LLaVA
PROMPT_N, ANSWER_N, QUERIES_N = 12, 4, 32
FILL_N = 500  # experts made and stored in one call
MARGIN = 1.0  # how far similarities are from the threshold, above (hits) or below (misses)


@dataclass
class Model:
    """An editor with random weights, and hidden states of edits; queries are these less answers."""

    width: int
    params: dict
    editor: liveedit.PreparedEditor
    hidden: Float[Array, "B T D"]
    role: Array
    query: Query

    @property
    def vision_n(self) -> int:
        """Return the number of tokens of a picture."""
        return VISION_N[self.width]

    @property
    def query_states(self) -> tuple[Array, Array]:
        """Return the hidden states and roles of the queries."""
        return self.hidden[:, :-ANSWER_N], self.role[:, :-ANSWER_N]


def random_model(width: int, seed: int) -> Model:
    """Draw weights and states from a seed; every sample has a mean of its own, as pictures do."""
    keys = jax.random.split(jax.random.key(seed), 3)
    vision_n = VISION_N[width]
    params = liveedit.init_params(keys[0], CFG, width, vision_n)
    kinds = [(Role.VISION, vision_n), (Role.PROMPT, PROMPT_N), (Role.ANSWER, ANSWER_N)]
    role = np.concatenate([np.full(n, kind, np.int8) for kind, n in kinds])
    hidden = jax.random.normal(keys[1], (QUERIES_N, len(role), width))
    hidden = hidden + jax.random.normal(keys[2], (QUERIES_N, 1, width))
    role = jnp.asarray(np.tile(role, (QUERIES_N, 1)))
    editor = jax.jit(liveedit.prepare, static_argnums=0)(CFG, params)
    asked = hidden[:, :-ANSWER_N], role[:, :-ANSWER_N]
    query = jax.jit(liveedit.encode_query, static_argnums=0)(CFG, editor, *asked)
    return Model(width, params, editor, hidden, role, query)


@partial(jax.jit, static_argnums=0)
def random_experts(width: int, key: Array, query: Query, pull: Array, hit: Array) -> Expert:
    """Draw experts whose vision keys are `pull[1]` where `hit`, else `pull[0]`.

    Text keys are noise, scaled so that similarities have a standard deviation of 1.
    """
    n, keys = len(hit), jax.random.split(key, 3)
    body, length = (n, CFG.rank, width), jnp.linalg.norm(query.text, axis=-1).mean()
    return Expert(
        text_key=similarity_scale(CFG) / length * jax.random.normal(keys[0], (n, pull.shape[1])),
        vision_key=pull[hit.astype(int)],
        down=jax.random.normal(keys[1], body) / width**0.5,
        up=jax.random.normal(keys[2], body),
    )


def miss_and_hit_keys(query: Query) -> Float[np.ndarray, "2 H"]:
    """Solve for a vision key that every query misses by MARGIN, and one that every query hits."""
    vision = np.asarray(query.vision, np.float64)
    threshold = np.asarray(query.threshold, np.float64)
    sides = [
        np.linalg.lstsq(vision, similarity_scale(CFG) * (threshold + d), rcond=None)[0]
        for d in (-MARGIN, MARGIN)
    ]
    return np.stack(sides).astype(np.float32)


@partial(jax.jit, donate_argnums=0)
def _add(repo: Repository, expert: Expert, edit_id: Array) -> Repository:
    return repository.add_edits(repo, expert, edit_id, jnp.ones(len(edit_id), bool))[0]


def fill_repository(
    model: Model, n: int, hit_n: int, room: int, storage: StorageConfig
) -> Repository:
    """Build a repository of n experts, with room for more; every query hits the first `hit_n`."""
    repo = repository.init_repository(CFG, model.width, n + room, storage)
    query, pull = model.query, jnp.asarray(miss_and_hit_keys(model.query))
    for at in range(0, n, FILL_N):
        ids = np.arange(at, min(at + FILL_N, n), dtype=np.int32)
        hit = jnp.asarray(ids < hit_n)
        expert = random_experts(model.width, jax.random.key(at), query, pull, hit)
        repo = _add(repo, expert, ids)
    return jax.block_until_ready(repo)


@partial(jax.jit, donate_argnums=0)
def with_hits(repo: Repository, pull: Float[Array, "2 H"], hit_n: Array) -> Repository:
    """Replace the vision keys, so that every query hits the first `hit_n` rows."""
    hit = jnp.arange(repo.born.shape[0]) < hit_n
    kept = rows.to_stored(rows.rotate(pull, repo.vision_key), repo.vision_key)
    return repo.replace(vision_key=rows.pick(kept, hit.astype(int)))
