"""RECIPE (arXiv 2405.03279): an edit becomes a short continuous prompt, found by a learned key.

Knowledge (image, prompt and target) and questions (image and prompt) are seen as the unedited
model's states at the edit layer, pooled by part; the image enters through its tokens' pools, which
are zeros without one. A question that resembles the knowledge nearest to it more than it resembles
the sentinel is answered with that knowledge's K vectors in front of its embeddings; all others by
the unedited model.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from liveedit_jax.backbones import decoder
from liveedit_jax.backbones.backbone import positions
from liveedit_jax.baselines import prompting
from liveedit_jax.baselines.trained import Lesson, Recipe, Trained
from liveedit_jax.editor.attention import init_linear
from liveedit_jax.editor.losses import hard_routing
from liveedit_jax.types import Batch, Role

ASKED = (Role.VISION, Role.PROMPT)
KNOWN = (*ASKED, Role.ANSWER)


def residual(params: dict, x: Float[Array, "... W"]) -> Float[Array, "... W"]:
    """x + relu(linear(x))."""
    return x + jax.nn.relu(decoder.linear(params, x))


def represent(params: dict, x: Float[Array, "N F"]) -> Float[Array, "N W"]:
    """Representations of pooled states."""
    return residual(params["mix"], decoder.linear(params["read"], x))


def prompt_of(params: dict, knowledge: Float[Array, "N W"], k: int) -> Float[Array, "N K D"]:
    """The continuous prompts of knowledge."""
    flat = decoder.linear(params["write"], residual(params["mix"], knowledge))
    return flat.reshape(len(knowledge), k, -1)


@dataclass(frozen=True)
class RecipeEditor(Trained):
    """Settings; the state is a memory of keys (knowledge representations) and prompts."""

    layer: int | None = None
    recipe: Recipe = Recipe(steps_n=1_000, batch_n=24)
    prompt_n: int = 3  # K
    width: int = 176  # of representations
    sentinel_n: int = 10  # learned vectors of each part, in the place of states
    told_n: int = 8  # samples of a batch that are answered; all take part in retrieval
    blend: float = 0.5  # for retrieval, pictures are mixed with another sample's up to so much
    repository_n: int | None = None  # knowledge weighs as if so much were stored (None: a batch)
    locality_weight: float = 1.0
    retrieval_weight: float = 1.0

    def init_params(self, backbone, weights, key):
        """Linear layers; prompts begin at the scale of the token embeddings."""
        d, w, keys = backbone.cfg.width, self.width, jax.random.split(key, 7)
        write = init_linear(keys[5], w, self.prompt_n * d)
        scale = jnp.sqrt(jnp.square(weights["embed"].astype(jnp.float32)).mean())
        return {
            "query": {
                "read": init_linear(keys[0], 3 * d * len(ASKED), w),
                "mix": init_linear(keys[1], w, w),
            },
            "knowledge": {
                "read": init_linear(keys[2], 3 * d * len(KNOWN), w),
                "mix": init_linear(keys[3], w, w),
            },
            "prompt": {
                "mix": init_linear(keys[4], w, w),
                "write": jax.tree.map(scale.__mul__, write),
            },
            "sentinel": 0.1 * jax.random.normal(keys[6], (len(KNOWN), self.sentinel_n, d)),
        }

    def _sentinel(self, own: dict) -> Float[Array, " W"]:
        every = jnp.ones(own["sentinel"].shape[:2], bool)
        return represent(
            own["knowledge"], prompting.mean_max_min(own["sentinel"], every).reshape(1, -1)
        )[0]

    def _score(self, query: Float[Array, "B W"], keys: Float[Array, "... W"]) -> Array:
        return query @ keys.T / self.width**0.5

    def encode(self, backbone, params, batch, seen):
        """Vision features, states at the edit layer, the query and the threshold it gives."""
        hidden = backbone.lower_from_features(params["backbone"], batch, seen)
        own = params["editor"]
        query = represent(own["query"], prompting.pooled(hidden, batch.role, ASKED))
        threshold = self._score(query, self._sentinel(own))
        return {"seen": seen, "hidden": hidden, "query": query, "threshold": threshold}

    def init(self, backbone, params, capacity):
        """An empty memory."""
        return {
            "key": jnp.zeros((capacity, self.width)),
            "prompt": jnp.zeros((capacity, self.prompt_n, backbone.cfg.width)),
            "used_n": jnp.zeros((), jnp.int32),
        }

    def edit(self, backbone, params, state, known, batch):
        """The memory with the request's knowledge and its prompt."""
        return prompting.kept(state, **self._entry(params, known, batch))

    def _entry(self, params: dict, known: dict, batch: Batch) -> dict[str, Array]:
        own = params["editor"]
        key = represent(own["knowledge"], prompting.pooled(known["hidden"], batch.role, KNOWN))
        return {"key": key, "prompt": prompt_of(own["prompt"], key, self.prompt_n)}

    def logits(self, backbone, params, state, known, batch, at):
        """With the nearest prompt where that beats the sentinel; else exactly the unedited ones."""
        best, slot = prompting.nearest(state, known["query"], 1)
        hit = best[:, 0] / self.width**0.5 > known["threshold"]
        weights, prompt = params["backbone"], state["prompt"][slot[:, 0]]
        plain = backbone.upper(weights, known["hidden"], batch, at)
        edited = self.prompted(backbone, weights, batch, known["seen"], prompt, at)
        return jnp.where(hit[:, None, None], edited, plain)

    def prompted(self, backbone, weights, batch, seen, prompt, at=None):
        """Logits with K vectors [B, K, D] in front of every row, whose positions they shift."""
        b, k = prompt.shape[:2]
        blank = jnp.zeros((b, k), jnp.int32)
        longer, at = prompting.inserted(batch, blank, jnp.full_like(blank, Role.PRE), Role.PAD, at)
        x = backbone.embed(weights, longer, seen)
        prompt = decoder.add_positions(
            backbone.cfg.decoder, weights, prompt, positions(longer)[:, :k]
        )
        x = jnp.concatenate([prompt.astype(x.dtype), x[:, k:]], axis=1)
        hidden, _ = backbone.run_lower(weights, x, backbone.context(longer))
        return backbone.upper(weights, hidden, longer, at)

    def loss(self, backbone, params, lesson, key):
        """Answers with the own knowledge's prompt, wherever it is put, and retrieval."""
        weights, told = params["backbone"], prompting.first(lesson, self.told_n)
        known = self.encode(backbone, params, *told.edit)
        prompt = self._entry(params, known, told.edit.batch)["prompt"]
        m, asked = len(prompt), prompting.joined(told)
        prompts = jnp.tile(prompt, (len(told), 1, 1))
        made = self.prompted(backbone, weights, *asked, prompts)
        original = prompting.unedited(backbone, weights, prompting.joined(told[3:]))
        right = prompting.inside(backbone, told, made[: 3 * m])
        same = prompting.outside(backbone, told, made[3 * m :], original)
        retrieval = self._retrieval(backbone, params, prompting.blended(key, lesson, self.blend))
        loss = sum(right.values()) + self.locality_weight * sum(same.values())
        return loss + self.retrieval_weight * sum(retrieval.values()), right | same | retrieval

    def _retrieval(self, backbone, params: dict, lesson: Lesson) -> dict[str, Array]:
        rows = prompting.joined(lesson)
        known = self.encode(backbone, params, *rows)
        edits = jax.tree.map(lambda leaf: leaf[: len(lesson.edit.seen)], (known, rows.batch))
        knowledge = self._entry(params, *edits)["key"]
        return self.retrieval_terms(known["query"], known["threshold"], knowledge)

    def retrieval_terms(
        self, query: Float[Array, "5*N W"], threshold: Float[Array, " 5*N"], knowledge: Array
    ) -> dict[str, Array]:
        """Cross-entropies over the batch's knowledge and the sentinel, which is to be found.

        `own`: an edited question finds its knowledge; `spared`: without that, the sentinel;
        `unrelated`: as an unedited question does.
        """
        n = len(knowledge)
        score = self._score(query, knowledge).reshape(5, n, n)
        threshold = threshold.reshape(5, n)

        def term(kinds: slice, others: Array, to_own: bool) -> Array:
            def one(score: Array, threshold: Array) -> Array:
                score = jnp.where(others, score, -1e30)
                return hard_routing(score, threshold, to_own, None, self.repository_n)

            return jax.vmap(one)(score[kinds], threshold[kinds]).mean()

        every, others = jnp.ones((n, n), bool), ~jnp.eye(n, dtype=bool)
        return {
            "own": term(slice(3), every, to_own=True),
            "spared": term(slice(3), others, to_own=False),
            "unrelated": term(slice(3, 5), every, to_own=False),
        }
