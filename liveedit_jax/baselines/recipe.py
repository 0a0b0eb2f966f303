"""RECIPE (arXiv 2405.03279): an edit becomes a short continuous prompt, found by a learned key.

Knowledge (image, prompt and target) and questions (image and prompt) are represented by the
unedited model's states at the edit layer, pooled by part; the pools of a missing image are zeros.
Where a question's nearest knowledge scores higher than the learned sentinel, that knowledge's K
prompt vectors are inserted between the question's image and text. All other questions are answered
by the unedited model.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from liveedit_jax.backbones import decoder
from liveedit_jax.backbones.sequence import positions
from liveedit_jax.baselines import prompting
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.baselines.trained import Lesson, TrainedEditor, TrainingRecipe
from liveedit_jax.editor.attention import init_linear, normalise
from liveedit_jax.editor.descent import descend
from liveedit_jax.editor.losses import hard_routing
from liveedit_jax.types import Batch, Role

QUESTION_ROLES = (Role.VISION, Role.PROMPT)
EPS = 1e-6  # of normalisation
KNOWLEDGE_ROLES = (*QUESTION_ROLES, Role.ANSWER)


def residual_layer(params: dict, x: Float[Array, "... W"]) -> Float[Array, "... W"]:
    """Compute x + relu(linear(x))."""
    return x + jax.nn.relu(decoder.linear(params, x))


def represent(params: dict, x: Float[Array, "N F"]) -> Float[Array, "N W"]:
    """Compute representations of pooled states."""
    return residual_layer(params["mix"], decoder.linear(params["read"], x))


def make_prompt(params: dict, x: Float[Array, "N F"], k: int) -> Float[Array, "N K D"]:
    """Make knowledge's continuous prompts from pooled states; vectors have mean 0, variance 1."""
    x = decoder.linear(params["write"], normalise(represent(params, x), EPS))
    return normalise(x.reshape(len(x), k, -1), EPS)


@dataclass(frozen=True)
class PromptRecipe(TrainingRecipe):
    """Muon for the prompt generator, which by Adam needed several times as many samples."""

    prompt_rate: float = 1e-2

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Return Muon for the prompt generator's matrices, and Adam for all else."""
        muon = optax.contrib.muon(
            self.schedule(self.prompt_rate),
            adam_learning_rate=self.schedule(self.learning_rate),
            consistent_rms=0.2,
        )
        kinds = dict.fromkeys(("query", "knowledge", "sentinel"), "rest") | {"prompt": "prompt"}
        return optax.multi_transform({"prompt": muon, "rest": super().optimizer}, kinds)


@dataclass(frozen=True)
class RecipeEditor(TrainedEditor):
    """RECIPE's settings; the state is a memory of keys (knowledge representations) and prompts."""

    layer: int | None = None
    recipe: TrainingRecipe = PromptRecipe(steps_n=1_500, batch_n=24)
    prompt_n: int = 5  # K; the paper's 3 are twenty times as wide
    length: float = 100.0  # norm of prompt vectors by that of embeddings; layers hardly turn them
    width: int = 176  # of the representations that are compared
    write_width: int = 512  # of the representation that prompts are made from (target states)
    sentinel_n: int = 10  # learned vectors of each part, pooled like states
    blend: float = 0.5  # for retrieval, pictures are mixed with another sample's up to this share
    repository_n: int | None = None  # weigh knowledge as if so much were stored (None: a batch)
    spared_n: int = 6  # samples of a batch whose prompts are also put before unedited questions
    locality_weight: float = 0.1  # of their locality; small, as retrieval keeps prompts away
    retrieval_weight: float = 1.0
    refine_n: int = 50  # the most steps of descent on the prompt at an edit; the paper's: 0
    refine_rate: float = 0.1
    stop_loss: float = 0.01

    def init_params(self, backbone, weights, key):
        """Initialise the linear layers and the sentinel."""
        d, w, keys = backbone.cfg.width, self.width, jax.random.split(key, 8)
        return {
            "query": {
                "read": init_linear(keys[0], 3 * d * len(QUESTION_ROLES), w),
                "mix": init_linear(keys[1], w, w),
            },
            "knowledge": {
                "read": init_linear(keys[2], 3 * d * len(KNOWLEDGE_ROLES), w),
                "mix": init_linear(keys[3], w, w),
            },
            "prompt": {
                "read": init_linear(keys[7], 3 * d, self.write_width),
                "mix": init_linear(keys[4], self.write_width, self.write_width),
                "write": init_linear(keys[5], self.write_width, self.prompt_n * d),
            },
            "sentinel": 0.1
            * jax.random.normal(keys[6], (len(KNOWLEDGE_ROLES), self.sentinel_n, d)),
        }

    def _sentinel(self, own: dict) -> Float[Array, " W"]:
        every = jnp.ones(own["sentinel"].shape[:2], bool)
        return represent(
            own["knowledge"], prompting.mean_max_min(own["sentinel"], every).reshape(1, -1)
        )[0]

    def _score(self, query: Float[Array, "B W"], keys: Float[Array, "... W"]) -> Array:
        return query @ keys.T / self.width**0.5

    def encode(self, backbone, params, batch, seen):
        """Compute the states at the edit layer, the query, and its score with the sentinel."""
        hidden = backbone.lower_from_features(params["backbone"], batch, seen)
        own = params["editor"]
        query = represent(own["query"], prompting.pool_states(hidden, batch.role, QUESTION_ROLES))
        threshold = self._score(query, self._sentinel(own))
        return {"seen": seen, "hidden": hidden, "query": query, "threshold": threshold}

    def init(self, backbone, params, capacity):
        """Return an empty memory."""
        return {
            "key": jnp.zeros((capacity, self.width)),
            "prompt": jnp.zeros((capacity, self.prompt_n, backbone.cfg.width)),
            "used_n": jnp.zeros((), jnp.int32),
        }

    def edit(self, backbone, params, state, known, batch):
        """Append the request's knowledge and its prompt, refined by descent, to the memory."""
        key, prompt = self._key(params, known, batch), self._prompt(params, known, batch)

        def loss(prompt):
            made = self.logits_with_prompt(
                backbone, params["backbone"], batch, known["seen"], prompt
            )
            return target_loss(backbone, made, batch)

        if self.refine_n:
            optimizer = optax.adam(self.refine_rate * self._unit(params))
            prompt, _ = descend(loss, prompt, optimizer, self.refine_n, self.stop_loss)
        return prompting.append_row(state, key=key, prompt=prompt)

    def _key(self, params: dict, known: dict, batch: Batch) -> Float[Array, "B W"]:
        pools = prompting.pool_states(known["hidden"], batch.role, KNOWLEDGE_ROLES)
        return represent(params["editor"]["knowledge"], pools)

    def _prompt(self, params: dict, known: dict, batch: Batch) -> Float[Array, "B K D"]:
        pools = prompting.pool_states(known["hidden"], batch.role, (Role.ANSWER,))
        return self._unit(params) * make_prompt(params["editor"]["prompt"], pools, self.prompt_n)

    def _unit(self, params: dict) -> Float[Array, ""]:
        """Return the root mean square of prompt vectors: `length` times that of embeddings."""
        return self.length * jnp.sqrt(
            jnp.square(params["backbone"]["embed"].astype(jnp.float32)).mean()
        )

    def logits(self, backbone, params, state, known, batch, at):
        """Compute logits with the nearest prompt, or the unedited ones where the sentinel wins."""
        best, slot = prompting.nearest_rows(state, known["query"], 1)
        hit = best[:, 0] / self.width**0.5 > known["threshold"]
        weights, prompt = params["backbone"], state["prompt"][slot[:, 0]]
        plain = backbone.upper(weights, known["hidden"], batch, at)
        edited = self.logits_with_prompt(backbone, weights, batch, known["seen"], prompt, at)
        return jnp.where(hit[:, None, None], edited, plain)

    def logits_with_prompt(self, backbone, weights, batch, seen, prompt, at=None):
        """Compute logits with K vectors [B, K, D] between every row's image and question."""
        b, k = prompt.shape[:2]
        blank = jnp.zeros((b, k), jnp.int32)
        own = jnp.full_like(blank, Role.PROMPT)
        longer, at = prompting.insert_tokens(batch, blank, own, at)
        before = (batch.role != Role.PAD) & (batch.role <= Role.VISION)
        place = jnp.arange(longer.role.shape[1]) - before.sum(1, keepdims=True)
        x = backbone.embed(weights, longer, seen)
        shown = jnp.take_along_axis(prompt, jnp.clip(place, 0, k - 1)[..., None], axis=1)
        cfg = backbone.cfg.decoder
        shown = decoder.add_positions(cfg, weights, shown, positions(cfg, longer))
        x = jnp.where(((place >= 0) & (place < k))[..., None], shown.astype(x.dtype), x)
        hidden, _ = backbone.run_lower(weights, x, backbone.context(longer))
        return backbone.upper(weights, hidden, longer, at)

    def loss(self, backbone, params, lesson, key):
        """Compute the losses of answers with a prompt, of locality and of retrieval.

        Each sample's prompt is put before one of its edited questions, which one follows from its
        place in the batch; the first `spared_n` are also put before an unedited question.
        """
        weights, edit = params["backbone"], lesson.edit
        known = self.encode(backbone, params, *edit)
        prompt = self._prompt(params, known, edit.batch)
        right = prompting.round_robin(lesson[:3])
        same = prompting.round_robin(jax.tree.map(lambda leaf: leaf[: self.spared_n], lesson[3:]))
        rows = prompting.concat_rows([right, same])
        prompts = jnp.concatenate([prompt, prompt[: self.spared_n]])
        made = self.logits_with_prompt(backbone, weights, *rows, prompts)
        original = prompting.unedited_logits(backbone, weights, same)
        n = len(prompt)
        terms = {
            "edited": target_loss(backbone, made[:n], right.batch),
            "unedited": prompting.locality_loss(backbone, made[n:], original, same.batch),
        }
        retrieval = self._retrieval(
            backbone, params, prompting.mix_pictures(key, lesson, self.blend)
        )
        loss = terms["edited"] + self.locality_weight * terms["unedited"]
        return loss + self.retrieval_weight * sum(retrieval.values()), terms | retrieval

    def _retrieval(self, backbone, params: dict, lesson: Lesson) -> dict[str, Array]:
        rows = prompting.concat_rows(lesson)
        known = self.encode(backbone, params, *rows)
        edits = jax.tree.map(lambda leaf: leaf[: len(lesson.edit.seen)], (known, rows.batch))
        knowledge = self._key(params, *edits)
        return self.retrieval_terms(known["query"], known["threshold"], knowledge)

    def retrieval_terms(
        self, query: Float[Array, "5*N W"], threshold: Float[Array, " 5*N"], knowledge: Array
    ) -> dict[str, Array]:
        """Compute cross-entropies over the batch's knowledge and the sentinel.

        `own`: an edited question should find its own knowledge. `spared`: without that, it should
        find the sentinel. `unrelated`: an unedited question should find the sentinel.
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
