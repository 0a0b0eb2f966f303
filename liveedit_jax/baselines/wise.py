"""WISE (arXiv 2405.14768): edits go into side memories, copies of one layer's last MLP kernel.

A question is routed to the side memory that changes the MLP's output most, if the change is about
as large as edits made it (`slack`); otherwise to the main memory. The size of a change is the mean
of |a (W_side - W_main)| over the prompt's text tokens, where `a` is the last kernel's input; they
attend to the image if there is one. Answer tokens do not count, so that routing does not depend on
the answer.

Edits come in shards. Each shard has its own side memory, in which it trains a random subspace
(mask) of the weights. After every `subspaces_n` shards, their memories are merged into one by TIES.

The paper's margins need an irrelevant question. At edit time only the edit is at hand, so its own
question without the picture is used (and none for an edit without a picture).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbones import Backbone, decoder
from liveedit_jax.baselines import adapter, layer
from liveedit_jax.editor.descent import descend
from liveedit_jax.types import AnyArray, Role


class Memories(NamedTuple):
    """Side memories minus the main one: first the merged one, then one for each subspace."""

    change: Float[Array, "M F D"]
    least: Float[Array, ""]  # the smallest change of the output by an edit
    edits_n: Int[Array, ""]


def output_changes(
    backbone: Backbone,
    weights: dict,
    change: Float[Array, "M F D"],
    states: Float[Array, "B T D"],
) -> Float[Array, "M B T D"]:
    """Compute a (W_side - W_main) for every memory: how it changes the MLP's output."""
    last = decoder.mlp_parts(backbone.cfg.decoder)[-1]
    beside_main = {last: {"kernel": rearrange(change, "m f d -> f (m d)")}}
    mlp = layer.mlp_weights(backbone, weights) | beside_main
    moved = layer.mlp_output(backbone, weights, mlp, states)
    return rearrange(moved, "b t (m d) -> m b t d", m=len(change))


def change_norm(moved: Float[Array, "M B T D"], role: Int[AnyArray, "B T"]) -> Float[Array, "M B"]:
    """Measure how much rows change: the mean norm over the prompt's text tokens."""
    prompt = role == Role.PROMPT
    norm = jnp.sqrt(jnp.square(moved).sum(-1) + 1e-12)  # has a gradient at zero, too
    return jnp.where(prompt, norm, 0).sum(-1) / jnp.maximum(prompt.sum(-1), 1)


def merge_by_ties(change: Float[Array, "M F D"], density: float) -> Float[Array, "F D"]:
    """Merge M changes by TIES: trim each to its largest entries, average over the elected sign."""
    size = jnp.abs(change)
    bound = jnp.quantile(size.reshape(len(change), -1), 1 - density, axis=1)
    trimmed = jnp.where(size >= bound[:, None, None], change, 0)
    agrees = (jnp.sign(trimmed) == jnp.sign(trimmed.sum(0))) & (trimmed != 0)
    return jnp.where(agrees, trimmed, 0).sum(0) / jnp.maximum(agrees.sum(0), 1)


@dataclass(frozen=True)
class Wise(adapter.MlpAdapter):
    """WISE's settings; the state is the side memories."""

    layer: int | None = -2
    shard_n: int = 100  # edits in a shard
    subspaces_n: int = 20  # k, shards between two merges
    mask_share: float = 0.5  # rho, share of the weights in a subspace
    merge_density: float = 0.53  # share of each memory's entries that TIES keeps
    alpha: float = 5.0  # an irrelevant question should change at most this much,
    beta: float = 20.0  # an edit at least this much,
    gamma: float = 10.0  # and by this more than an irrelevant question
    slack: float = 0.7  # share of `Memories.least` from which on a question is routed to the side
    learning_rate: float = 3e-3
    steps_n: int = 70
    stop_loss: float = 0.01
    seed: int = 0

    def init(self, backbone, params, capacity):
        """Return side memories that equal the main one."""
        last = decoder.mlp_parts(backbone.cfg.decoder)[-1]
        kernel = layer.mlp_weights(backbone, params["backbone"])[last]["kernel"]
        change = jnp.zeros((1 + self.subspaces_n, *kernel.shape))
        return Memories(change, jnp.asarray(jnp.inf), jnp.zeros((), jnp.int32))

    def edit(self, backbone, params, state, known, batch):
        """Fine-tune in the shard's subspace; merge after the last shard of a round."""
        weights, edits_n = params["backbone"], state.edits_n + 1
        shard = state.edits_n // self.shard_n
        own = 1 + shard % self.subspaces_n
        key = jax.random.fold_in(jax.random.key(self.seed), shard)
        mask = jax.random.bernoulli(key, self.mask_share, state.change.shape[1:])
        before = state.change[own]
        loss = self.make_loss(backbone, weights, known, batch)
        change, _ = descend(
            loss, before, optax.adam(self.learning_rate), self.steps_n, self.stop_loss,
            lambda change: jnp.where(mask, change, before),
        )  # fmt: skip
        far = change_norm(
            output_changes(backbone, weights, change[None], known.states), batch.role
        )[0, 0]
        memories = jax.lax.cond(
            edits_n % (self.shard_n * self.subspaces_n) == 0,
            lambda all_: jnp.zeros_like(all_).at[0].set(merge_by_ties(all_, self.merge_density)),
            lambda all_: all_,
            state.change.at[own].set(change),
        )
        return Memories(memories, jnp.minimum(state.least, far), edits_n)

    def make_loss(self, backbone, weights, known, batch):
        """Make an edit's loss, a function of its memory's change: target loss and three margins."""
        text = adapter.drop_images(batch)
        irrelevant = layer.mlp_states(backbone, weights, text, None)
        pictured: Bool[Array, ""] = (jnp.asarray(batch.role) == Role.VISION).any()

        def loss(change):
            moved = output_changes(backbone, weights, change[None], known.states)
            inside = change_norm(moved, batch.role)[0, 0]
            moved_text = output_changes(backbone, weights, change[None], irrelevant)
            outside = change_norm(moved_text, text.role)[0, 0]
            apart = jax.nn.relu(outside - self.alpha) + jax.nn.relu(self.gamma - inside + outside)
            margins = jax.nn.relu(self.beta - inside) + jnp.where(pictured, apart, 0)
            target = adapter.edited_loss(backbone, weights, known, known.output + moved[0], batch)
            return target + margins

        return loss

    def edited_output(self, backbone, weights, state, known, batch):
        """Add the change of the memory that each row's prompt is routed to."""
        moved = output_changes(backbone, weights, state.change, known.states)
        far = change_norm(moved, batch.role)
        hit = far.max(0) >= self.slack * state.least
        way = jax.nn.one_hot(far.argmax(0), len(far), axis=0) * hit
        return known.output + jnp.einsum("mb,mbtd->btd", way, moved)
