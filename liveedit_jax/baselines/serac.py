"""SERAC (arXiv 2206.06520): edits are stored as text; a second model answers what they change.

    question ─ key ─ nearest edit in scope? ─ no ──► the unedited model
                                            └ yes ─► [edit's prompt, target][prompt, answer so far]
                                                     ─ counterfactual model ─► logits

The scope classifier reads states after `layer`. A question's key is made from the pools of its
VISION states, or a learned vector if it has no picture, and of its PROMPT states. An edit's key is
that of its question, and questions with near keys are in its scope. As in multimodal SERAC, the
counterfactual model does not see pictures; it is a few layers of the model's own kind, trained from
scratch between the frozen embeddings and head. In both of its texts, positions count from where the
answer begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from liveedit_jax.backbone_config import DecoderConfig
from liveedit_jax.backbones import Backbone, decoder
from liveedit_jax.baselines import prompting
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.baselines.texts import Text, append_eos, extract_text, text_positions
from liveedit_jax.baselines.trained import Lesson, TrainedEditor, TrainingRecipe
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.editor.attention import init_linear
from liveedit_jax.training.editor_loss import blend_images
from liveedit_jax.types import AnyArray, Role

SCOPE_ROLES = {"prompt": Role.PROMPT, "image": Role.VISION}
IN_SCOPE_N = 3  # the first kinds of a lesson's rows, which the edit should answer
PARTS_N = 4  # prompt and target of an edit, prompt and answer of a question


class ScopedStates(NamedTuple):
    """States after `layer`, and keys, of B rows."""

    hidden: Float[Array, "B T D"]
    key: Float[Array, "B K"]


@dataclass(frozen=True)
class Serac(TrainedEditor):
    """SERAC's settings; the state is a memory of keys and texts."""

    layer: int | None = None
    key_width: int = 64  # of a key's image part, and of its prompt part
    layers_n: int = 2  # of the counterfactual model
    text_n: int = 56  # tokens of an edit that are stored
    blend: float = 0.5  # in training, images are mixed with another sample's up to this share
    recipe: TrainingRecipe = TrainingRecipe(steps_n=1_200)

    def init_params(self, backbone, weights, key):
        """Initialise the scope classifier and the counterfactual model."""
        cfg, width = backbone.cfg.decoder, backbone.cfg.width
        keys = iter(jax.random.split(key, 6))
        scope = {
            name: {
                "inner": init_linear(next(keys), 3 * width, 2 * self.key_width),
                "outer": init_linear(next(keys), 2 * self.key_width, self.key_width),
            }
            for name in SCOPE_ROLES
        }
        context = decoder.context(cfg, jnp.zeros((1, 2), int), jnp.ones((1, 2, 2), bool))
        stack, kinds = decoder.stack(cfg, self.layers_n, False, False), self._kinds(cfg)
        started = stack.init(next(keys), jnp.zeros((1, 2, width)), None, context, kinds)
        return {
            "scope": scope | {"no_image": jnp.zeros(self.key_width), "radius": jnp.ones(())},
            "layers": started["params"],
            "part": jax.random.normal(next(keys), (PARTS_N, width)) * width**-0.5,
        }

    def key(
        self, params: dict, hidden: Float[Array, "B T D"], role: Int[AnyArray, "B T"]
    ) -> Float[Array, "B K"]:
        """Compute the scope classifier's keys of questions."""
        keys = {}
        for name, part in SCOPE_ROLES.items():
            x = decoder.linear(params[name]["inner"], prompting.pool_states(hidden, role, [part]))
            keys[name] = decoder.linear(params[name]["outer"], jax.nn.gelu(x))
        pictured = (role == Role.VISION).any(-1, keepdims=True)
        image = jnp.where(pictured, keys["image"], params["no_image"])
        return jnp.concatenate([keys["prompt"], image], axis=-1)

    def score(
        self, params: dict, question: Float[Array, "B K"], edit: Float[Array, "C K"]
    ) -> Float[Array, "B C"]:
        """Compute the log odds that a question is in an edit's scope: radius - squared distance."""
        return params["radius"] - jnp.square(question[:, None] - edit).sum(-1)

    def counterfactual(
        self,
        backbone: Backbone,
        params: dict,
        edit: Text,
        question: Text,
        at: Int[Array, "B A"] | None = None,
    ) -> Float[Array, "B A V"]:
        """Compute logits at the question's tokens (`at` None: all), behind the edit's text."""
        weights, own = params["backbone"], params["editor"]
        (token, role), (position, part) = jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves, axis=1),
            (edit, self._places(edit, 0)),
            (question, self._places(question, 2)),
        )
        joint = without_pixels(token, role).replace(position=position)
        x = backbone.embed(weights, joint, None).astype(jnp.float32) + own["part"][part]
        cfg, context = backbone.cfg.decoder, backbone.context(joint)
        stack = decoder.stack(cfg, self.layers_n, False, False)
        states, _ = stack.apply({"params": own["layers"]}, x, None, context, self._kinds(cfg))
        states = states[:, edit.token.shape[1] :]
        if at is not None:
            states = jnp.take_along_axis(states, at[..., None], axis=1)
        return backbone.head(weights, states)

    def _kinds(self, cfg: DecoderConfig):
        """Return the kinds of the counterfactual model's layers: those of the decoder's first."""
        return decoder.layer_kinds(cfg, 0, self.layers_n)

    def _places(self, text: Text, part: int) -> tuple[Int[Array, "B X"], Int[Array, "B X"]]:
        """Return positions (`text_n` where the answer begins) and each token's part of PARTS_N."""
        answer = text.role == Role.ANSWER
        first = (text.role == Role.PROMPT).sum(1, keepdims=True)
        position = jnp.arange(text.token.shape[1]) - first + self.text_n
        return jnp.maximum(position, 0), part + answer

    def loss(self, backbone, params, lesson: Lesson, key):
        """Compute the cross-entropies of both models.

        For the scope classifier, an edited question is a positive example with its own edit. It is
        a negative one with the other samples' edits, as is a locality question with all edits.
        """
        scope, n = params["editor"]["scope"], len(lesson.edit.seen)
        rows = prompting.concat_rows(lesson)
        hidden = backbone.lower_from_features(params["backbone"], rows.batch, rows.seen)
        role = rows.batch.role
        if self.blend:
            hidden = self._mix_pictures(key, hidden, role, len(lesson))
        keys = self.key(scope, hidden, role)
        odds = self.score(scope, keys, keys[:n]).reshape(len(lesson), n, n)
        changed = jnp.arange(len(lesson)) < IN_SCOPE_N
        own = jnp.eye(n, dtype=bool) & changed[:, None, None]
        near = jnp.where(own, jax.nn.softplus(-odds), 0).sum() / own.sum()
        far = jnp.where(own, 0, jax.nn.softplus(odds)).sum(-1).mean()
        told = self._counterfactual_loss(backbone, params, lesson)
        names = [f"in_scope/{name}" for name in lesson._fields]
        scalars = dict(zip(names, (odds > 0).any(-1).mean(-1), strict=True))
        return told + near + far, scalars | {"counterfactual": told, "near": near, "far": far}

    def _mix_pictures(self, key: Array, hidden: Array, role: AnyArray, kinds_n: int) -> Array:
        """Mix the image states with another sample's, in the same way in all rows of a sample."""
        states, role = (
            jnp.moveaxis(leaf.reshape(kinds_n, -1, *leaf.shape[1:]), 0, 1)
            for leaf in (hidden, role)
        )
        states = blend_images(key, states, role, self.blend)
        return jnp.moveaxis(states, 1, 0).reshape(hidden.shape)

    def _counterfactual_loss(
        self, backbone: Backbone, params: dict, lesson: Lesson
    ) -> Float[Array, ""]:
        """Compute the counterfactual model's cross-entropy on edited questions with their edits."""
        most_n = lesson.edit.batch.token.shape[1] - backbone.cfg.vision_n
        rows = prompting.concat_rows(lesson[:IN_SCOPE_N])
        question = extract_text(rows.batch, most_n)
        edit = append_eos(extract_text(lesson.edit.batch, most_n), backbone.cfg.eos_id)
        edit = Text(*(jnp.tile(leaf, (IN_SCOPE_N, 1)) for leaf in edit))
        made = self.counterfactual(backbone, params, edit, question)
        return target_loss(backbone, made, without_pixels(*question))

    def encode(self, backbone, params, batch, seen):
        """Compute the states after `layer`, and keys."""
        hidden = backbone.lower_from_features(params["backbone"], batch, seen)
        return ScopedStates(hidden, self.key(params["editor"]["scope"], hidden, batch.role))

    def init(self, backbone, params, capacity):
        """Return an empty memory."""
        blank = jnp.zeros((capacity, self.text_n), jnp.int32)
        return {
            "key": jnp.zeros((capacity, len(SCOPE_ROLES) * self.key_width)),
            "token": blank,
            "role": blank.astype(jnp.int8),
            "used_n": jnp.zeros((), jnp.int32),
        }

    def edit(self, backbone, params, state, known, batch):
        """Append the request's key and text to the memory."""
        text = append_eos(extract_text(batch, self.text_n), backbone.cfg.eos_id)
        return prompting.append_row(state, key=known.key, token=text.token, role=text.role)

    def logits(self, backbone, params, state, known, batch, at):
        """Compute the counterfactual model's logits in an edit's scope, else the unedited ones."""
        used = jnp.arange(len(state["key"])) < state["used_n"]
        odds = self.score(params["editor"]["scope"], known.key, state["key"])
        odds = jnp.where(used, odds, -jnp.inf)
        nearest = Text(*(state[name][odds.argmax(-1)] for name in Text._fields))
        question = extract_text(batch, batch.token.shape[1])
        made = self.counterfactual(backbone, params, nearest, question, text_positions(batch, at))
        before = backbone.upper(params["backbone"], known.hidden, batch, at)
        return jnp.where((odds.max(-1) > 0)[:, None, None], made, before)
