"""LTE (arXiv 2402.11905): the model is fine-tuned once to use edits that stand in its prompt.

The decoder is fine-tuned (LoRA on every linear layer) and stays so: it differs from the original
even before the first edit. An edit is stored as text, its question and its target. For a question,
the text of the nearest edit is inserted between image and question. Nearness is the cosine of keys,
projections of the unedited model's pooled states of image and question at the edit layer; an edit's
own image enters through its key alone. Below `threshold`, nothing is inserted.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from liveedit_jax.baselines import prompting
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.baselines.texts import Text, append_eos, extract_text
from liveedit_jax.baselines.trained import Lesson, TrainedEditor, TrainingRecipe
from liveedit_jax.types import Batch, Role

HALVES = ("lower", "upper")
KEY_ROLES = (Role.VISION, Role.PROMPT)


def init_lora(weights: dict, rank: int, key: Array) -> dict:
    """Initialise LoRA factors for every kernel [layers, in, out] of the decoder; `up` is zero."""
    made: dict[str, dict] = {half: {} for half in HALVES}
    for half in HALVES:
        for path, leaf in flatten_dict(weights[half]).items():
            if path[-1] == "kernel":
                key, own = jax.random.split(key)
                n, inputs_n, outputs_n = leaf.shape
                down = jax.random.normal(own, (n, inputs_n, rank)) * inputs_n**-0.5
                made[half][*path[:-1], "down"] = down
                made[half][*path[:-1], "up"] = jnp.zeros((n, rank, outputs_n))
    return {half: unflatten_dict(flat) for half, flat in made.items()}


def merge_lora(weights: dict, lora: dict) -> dict:
    """Add down @ up to every kernel of the decoder."""

    def half_of(half: str) -> dict:
        flat, factors = flatten_dict(weights[half]), flatten_dict(lora[half])
        for path in (path for path in flat if path[-1] == "kernel"):
            down, up = (factors[*path[:-1], name] for name in ("down", "up"))
            flat[path] = flat[path] + (down @ up).astype(flat[path].dtype)
        return unflatten_dict(flat)

    return weights | {half: half_of(half) for half in HALVES}


def descriptor(batch: Batch, most_n: int, eos_id: int) -> Text:
    """Write each row's edit as text: question, target and a closing EOS, all in role PROMPT."""
    token, role = append_eos(extract_text(batch, most_n), eos_id)
    return Text(token, jnp.where(role == Role.PAD, role, Role.PROMPT).astype(role.dtype))


@dataclass(frozen=True)
class Lte(TrainedEditor):
    """LTE's settings; the state is a memory of keys and texts."""

    layer: int | None = None
    recipe: TrainingRecipe = TrainingRecipe(steps_n=1_500, batch_n=16)
    rank: int = 16
    key_width: int = 128
    text_n: int = 56  # L, tokens of an edit's text that are stored
    top_k: int = 1  # texts to insert, the nearest first
    threshold: float | None = 0.7  # least cosine of keys to insert a text (None: always insert)
    temperature: float = 0.1  # of retrieval in training
    blend: float = 0.5  # for retrieval, pictures are mixed with another sample's up to this share
    irrelevant_share: float = 0.5  # of unedited questions trained with another sample's edit
    locality_weight: float = 1.0
    retrieval_weight: float = 1.0

    def init_params(self, backbone, weights, key):
        """Initialise LoRA, which changes nothing yet, and the projection of keys."""
        keys = jax.random.split(key)
        shape = (3 * backbone.cfg.width * len(KEY_ROLES), self.key_width)
        kernel = jax.nn.initializers.lecun_normal()(keys[0], shape)
        return {"lora": init_lora(weights, self.rank, keys[1]), "key": kernel}

    def encode(self, backbone, params, batch, seen):
        """Compute the key; vision features are kept for the logits."""
        hidden = backbone.lower_from_features(params["backbone"], batch, seen)
        key = prompting.pool_states(hidden, batch.role, KEY_ROLES) @ params["editor"]["key"]
        return {"seen": seen, "key": key / jnp.linalg.norm(key, axis=-1, keepdims=True)}

    def init(self, backbone, params, capacity):
        """Return an empty memory."""
        texts = (capacity, self.text_n)
        return {
            "key": jnp.zeros((capacity, self.key_width)),
            "token": jnp.zeros(texts, jnp.int32),
            "role": jnp.zeros(texts, jnp.int8),
            "used_n": jnp.zeros((), jnp.int32),
        }

    def edit(self, backbone, params, state, known, batch):
        """Append the request's key and text to the memory."""
        text = descriptor(batch, self.text_n, backbone.cfg.eos_id)
        return prompting.append_row(state, key=known["key"], token=text.token, role=text.role)

    def logits(self, backbone, params, state, known, batch, at):
        """Compute the fine-tuned model's logits, the nearest texts in front of the question."""
        weights = merge_lora(params["backbone"], params["editor"]["lora"])
        text = self.nearest_text(state, known["key"])
        return self.logits_with_text(backbone, weights, batch, known["seen"], text, at)

    def nearest_text(self, state: dict[str, Array], key: Float[Array, "B W"]) -> Text:
        """Concatenate the stored texts of the nearest keys; PAD where none is near enough."""
        best, slot = prompting.nearest_rows(state, key, self.top_k)
        least = -jnp.inf if self.threshold is None else self.threshold
        role = jnp.where((best > least)[..., None], state["role"][slot], Role.PAD)
        return Text(*(rearrange(x, "b k l -> b (k l)") for x in (state["token"][slot], role)))

    def logits_with_text(
        self,
        backbone,
        weights: dict,
        batch: Batch,
        seen: Float[Array, "B P D"],
        text: Text,
        at: Int[Array, "B A"] | None = None,
    ) -> Float[Array, "B A V"]:
        """Compute the logits of a model that reads these texts between image and question."""
        longer, at = prompting.insert_tokens(batch, *text, at)
        hidden = backbone.lower_from_features(weights, longer, seen)
        return backbone.upper(weights, hidden, longer, at)

    def loss(self, backbone, params, lesson, key):
        """Compute the loss of LTE's alignment phase, and that of retrieval.

        Each sample is asked one of its edited questions with its own edit, and one of its unedited
        ones with another sample's edit or none; which ones follows from its place in the batch.
        """
        weights = params["backbone"]
        right, same = prompting.round_robin(lesson[:3]), prompting.round_robin(lesson[3:])
        rows = prompting.concat_rows([right, same])
        key, blend_key = jax.random.split(key)
        text = self._texts(backbone, lesson, key)
        made = self.logits_with_text(
            backbone, merge_lora(weights, params["editor"]["lora"]), *rows, text
        )
        original = prompting.unedited_logits(backbone, weights, same)
        n = len(right.seen)
        terms = {
            "edited": target_loss(backbone, made[:n], right.batch),
            "unedited": prompting.locality_loss(backbone, made[n:], original, same.batch),
            "retrieval": self._retrieval(
                backbone, params, prompting.mix_pictures(blend_key, lesson, self.blend)
            ),
        }
        loss = terms["edited"] + self.locality_weight * terms["unedited"]
        return loss + self.retrieval_weight * terms["retrieval"], terms

    def _texts(self, backbone, lesson: Lesson, key: Array) -> Text:
        """Choose texts: the own ones for edited questions, another sample's or none for the rest.

        Every edit of a lesson has a picture, so T - P tokens are room for all its text.
        """
        batch = lesson.edit.batch
        most_n = min(self.text_n, batch.token.shape[1] - backbone.cfg.vision_n)
        own = descriptor(batch, most_n, backbone.cfg.eos_id)
        other = jax.random.bernoulli(key, self.irrelevant_share, (len(batch.token), 1))

        def laid_out(leaf: Array) -> Array:
            return jnp.concatenate([leaf, jnp.where(other, jnp.roll(leaf, 1, axis=0), 0)])

        return Text(*map(laid_out, own))

    def _retrieval(self, backbone, params: dict, lesson: Lesson) -> Float[Array, ""]:
        """Compute the loss of finding both generalities' edit among all edits of the batch."""
        key = self.encode(backbone, params, *prompting.concat_rows(lesson[:3]))["key"]
        edits, asked = jnp.split(key, [len(key) // 3])
        right = jnp.tile(jnp.arange(len(edits)), 2)
        score = asked @ edits.T / self.temperature
        return optax.softmax_cross_entropy_with_integer_labels(score, right).mean()
