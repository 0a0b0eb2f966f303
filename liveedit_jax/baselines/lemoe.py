"""LEMoE (arXiv 2406.20030): a mixture of experts in parallel to one MLP, one for each edit batch.

An expert is a low-rank MLP, relu(x down1 up1) down2 up2, that is trained on its batch of edits and
then frozen. KV-anchor routing: every expert has a key and a projection; its score is the product of
its key with its projection of the row's representation. The outputs of the K best experts are
added, weighted by the softmax of their scores, so some expert is always added. A row is represented
by the MLP's input at the prompt's last token, which attends to the image if there is one, so that
routing does not depend on the answer.

The paper learns keys and projections through the experts' weights alone. Here `anchor_weight` is
the weight of a further loss: a new expert should win its own rows and lose the rows of the older
experts, which are stored (`anchor`). The paper's clustering of edits, which plans their order, is
left out: edits are taken as they come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import decoder
from liveedit_jax.baselines import adapter, layer
from liveedit_jax.editor.descent import descend
from liveedit_jax.types import Role

ABSENT_SCORE = -1e30  # of an expert that does not exist yet


class Experts(NamedTuple):
    """E experts and routers, `experts_n` of them in use, and the C rows that they were made for."""

    body: dict[str, Array]
    router: dict[str, Array]
    experts_n: Int[Array, ""]
    anchor: Float[Array, "C D"]
    anchors_n: Int[Array, ""]


def routing_scores(router: dict[str, Array], row: Float[Array, "B D"]) -> Float[Array, "B E"]:
    """Score rows for experts: products of the experts' keys with their projections of rows."""
    value = jax.nn.silu(jnp.einsum("bd,edp->bep", row, router["project"]))
    return jnp.einsum("bep,ep->be", value, router["key"])


def apply_experts(body: dict[str, Array], x: Float[Array, "B T D"]) -> Float[Array, "B K T D"]:
    """Compute the outputs of K experts a row; body[...][b] are the experts of row b."""
    x = jnp.einsum("btd,bkdr->bktr", x, body["down1"])
    x = jax.nn.relu(jnp.einsum("bktr,bkrf->bktf", x, body["up1"]))
    x = jnp.einsum("bktf,bkfr->bktr", x, body["down2"])
    return jnp.einsum("bktr,bkrd->bktd", x, body["up2"])


@dataclass(frozen=True)
class Lemoe(adapter.MlpAdapter):
    """LEMoE's settings; the state is the experts."""

    layer: int | None = -2
    together: int = 10  # edits that share an expert
    rank: int = 8
    router_width: int = 32
    top_k: int = 2
    anchor_weight: float = 1.0
    learning_rate: float = 1e-2
    steps_n: int = 100
    stop_loss: float = 0.01
    seed: int = 0

    def init(self, backbone, params, capacity):
        """Allocate one expert for each batch of `together` edits; none is in use."""
        experts_n = -(-capacity // self.together)
        last = decoder.mlp_parts(backbone.cfg.decoder)[-1]
        f, d = layer.mlp_weights(backbone, params["backbone"])[last]["kernel"].shape
        r, p = self.rank, self.router_width
        body = {"down1": (d, r), "up1": (r, f), "down2": (f, r), "up2": (r, d)}
        router = {"project": (d, p), "key": (p,)}

        def room(shapes: dict) -> dict[str, Array]:
            return {name: jnp.zeros((experts_n, *shape)) for name, shape in shapes.items()}

        none = jnp.zeros((), jnp.int32)
        return Experts(room(body), room(router), none, jnp.zeros((capacity, d)), none)

    def edit(self, backbone, params, state, known, batch):
        """Add an expert for a batch of requests; rows that are all PAD are no requests."""
        weights, present = params["backbone"], (jnp.asarray(batch.role) != Role.PAD).any(1)
        start = self.init_expert(state)
        loss = self.make_loss(backbone, weights, state, known, batch, present)
        optimizer = optax.adam(self.learning_rate)
        made, _ = descend(loss, start, optimizer, self.steps_n, self.stop_loss)
        body, router = jax.tree.map(
            lambda all_, new: all_.at[state.experts_n].set(new), (state.body, state.router), made
        )
        row = adapter.query(backbone, weights, known, batch)
        anchor = adapter.insert_rows(state.anchor, row, present, state.anchors_n)
        return Experts(body, router, state.experts_n + 1, anchor, state.anchors_n + present.sum())

    def init_expert(self, state: Experts) -> tuple[dict, dict]:
        """Initialise an expert whose output is zero, and its router, whose scores are zero."""
        key = jax.random.fold_in(jax.random.key(self.seed), state.experts_n)

        def normal(key: Array, leaf: Array) -> Array:
            return jax.random.normal(key, leaf.shape[1:]) * leaf.shape[1] ** -0.5

        keys = jax.random.split(key, 4)
        body = {
            name: normal(one, state.body[name])
            for one, name in zip(keys, ("down1", "up1", "down2"), strict=False)
        }
        body["up2"] = jnp.zeros(state.body["up2"].shape[1:])
        project = normal(keys[3], state.router["project"])
        return body, {"project": project, "key": jnp.zeros(project.shape[1])}

    def make_loss(self, backbone, weights, state, known, batch, present) -> Callable:
        """Make the loss of (body, router) on a batch: that of the targets and that of routing."""
        x = layer.mlp_input(backbone, weights, known.states)
        row = adapter.query(backbone, weights, known, batch)
        old = self.masked_scores(state, row)
        best, slot = jax.lax.top_k(old, min(self.top_k, old.shape[1]) - 1)
        old_added = apply_experts(jax.tree.map(lambda leaf: leaf[slot], state.body), x)
        rival = jax.nn.logsumexp(old, axis=1)
        anchor_rival = jax.nn.logsumexp(self.masked_scores(state, state.anchor), axis=1)
        kept = jnp.arange(len(state.anchor)) < state.anchors_n
        present_n = jnp.maximum(present.sum(), 1)

        def loss(made):
            body, router = jax.tree.map(lambda leaf: leaf[None], made)
            score = routing_scores(router, row)
            each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(row), *leaf.shape)), body)
            gate = jax.nn.softmax(jnp.concatenate([score, best], axis=1))
            made_added = jnp.concatenate([apply_experts(each, x), old_added], axis=1)
            output = known.output + jnp.einsum("bk,bktd->btd", gate, made_added)
            # rows that are missing add 0
            target = adapter.edited_loss(backbone, weights, known, output, batch)
            won = jnp.where(present, jax.nn.softplus(rival - score[:, 0]), 0).sum() / present_n
            lost = jax.nn.softplus(routing_scores(router, state.anchor)[:, 0] - anchor_rival)
            lost = jnp.where(kept, lost, 0).sum() / jnp.maximum(kept.sum(), 1)
            return target * len(row) / present_n + self.anchor_weight * (won + lost)

        return loss

    def masked_scores(self, state: Experts, row: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """Score rows for the experts in use; the others get ABSENT_SCORE."""
        found = routing_scores(state.router, row)
        return jnp.where(jnp.arange(found.shape[1]) < state.experts_n, found, ABSENT_SCORE)

    def edited_output(self, backbone, weights, state, known, batch):
        """Add the outputs of the row's experts to the MLP's."""
        score = self.masked_scores(state, adapter.query(backbone, weights, known, batch))
        best, slot = jax.lax.top_k(score, min(self.top_k, score.shape[1]))
        body = jax.tree.map(lambda leaf: leaf[slot], state.body)
        x = layer.mlp_input(backbone, weights, known.states)
        added = apply_experts(body, x)
        return known.output + jnp.einsum("bk,bktd->btd", jax.nn.softmax(best), added)
