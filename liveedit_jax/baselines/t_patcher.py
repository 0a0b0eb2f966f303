"""Transformer-Patcher (arXiv 2301.09785): neurons beside the last layer's MLP, some for each edit.

Each token of an edit's answer, and EOS, has a neuron of its own, relu(key . x + bias) * value; x is
what the MLP reads at the position that predicts it. It is trained to be active there, and silent on
memories: the same row's earlier tokens (of image and prompt), all tokens of the row without its
picture, and the positions of earlier edits' answers. The paper draws its memories from training
data, which an edit does not bring along. The image enters through the states alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.baselines import adapter, layer
from liveedit_jax.baselines.descent import descend
from liveedit_jax.types import Role


class Neurons(NamedTuple):
    """Neurons; one that is not used has no value, and adds nothing."""

    key: Float[Array, "N D"]
    bias: Float[Array, " N"]
    value: Float[Array, "N D"]


class Patches(NamedTuple):
    """Neurons of all edits, the first `used_n` used, and a ring of what some were made for."""

    neurons: Neurons
    used_n: Int[Array, ""]
    memory: Float[Array, "M D"]
    memories_n: Int[Array, ""]  # ever written


def apply_neurons(neurons: Neurons, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """What neurons add."""
    return jax.nn.relu(x @ neurons.key.T + neurons.bias) @ neurons.value


def activation_penalty(x: Float[Array, "M T"], counted: Bool[Array, "M T"]) -> Float[Array, ""]:
    """The mean of exp(x) over what is counted and above zero."""
    over = counted & (x > 0)
    return jnp.where(over, jnp.exp(jnp.where(over, x, 0)), 0).sum() / jnp.maximum(over.sum(), 1)


@dataclass(frozen=True)
class TPatcher(adapter.MlpAdapter):
    """Settings; the state is the patches."""

    layer: int | None = -1
    tokens_n: int = 32  # room in the state for an edit's neurons; what one leaves, others may use
    memories_n: int = 512  # of earlier edits, the latest
    activation_weight: float = 1.0
    memory_weight: float = 1.0
    silent: float = -6.0  # beta: what memories should at most give, before the ReLU,
    apart: float = 6.0  # gamma: and how much less than the neuron's own token
    amplify: float = 10.0  # values are learnt at this scale
    learning_rate: float = 1e-2
    steps_n: int = 100
    stop_loss: float = 0.01

    def init(self, backbone, params, capacity):
        """No neurons.

        Raises:
            ValueError: a layer follows.
        """
        if backbone.upper_n:
            raise ValueError("patches stand beside the last layer's MLP: layer=-1")
        n, d = capacity * self.tokens_n, backbone.cfg.width
        neurons = Neurons(jnp.zeros((n, d)), jnp.zeros(n), jnp.zeros((n, d)))
        none = jnp.zeros((), jnp.int32)
        return Patches(neurons, none, jnp.zeros((self.memories_n, d)), none)

    def edit(self, backbone, params, state, known, batch):
        """With a neuron at each of the request's positions that predict its answer."""
        weights = params["backbone"]
        x = layer.mlp_input(backbone, weights, known.states)[0].astype(jnp.float32)
        own = adapter.prediction_mask(batch.role)[0]
        memory, counted = self.memories(backbone, weights, state, x, batch)
        before = known.output + apply_neurons(state.neurons, x)

        def loss(neurons):
            neurons = self.scale_values(neurons, own)
            active = jnp.einsum("td,td->t", x, neurons.key) + neurons.bias
            remembered = memory @ neurons.key.T + neurons.bias
            both = counted[:, None] & own
            quiet = activation_penalty(remembered - self.silent, both)
            quiet += activation_penalty(remembered - active + self.apart, both)
            alive = jnp.where(own, jnp.exp(-active), 0).sum() / jnp.maximum(own.sum(), 1)
            output = before + apply_neurons(neurons, x)
            target = adapter.edited_loss(backbone, weights, known, output, batch)
            return target + self.activation_weight * alive + self.memory_weight * quiet

        norm = jnp.square(x).sum(-1, keepdims=True)  # neurons begin with an activation of one
        start = Neurons(x / jnp.maximum(norm, 1e-6), jnp.zeros(len(x)), jnp.zeros_like(x))
        optimizer = optax.adam(self.learning_rate)
        found, _ = descend(loss, start, optimizer, self.steps_n, self.stop_loss)
        neurons = self.scale_values(found, own)
        return Patches(
            jax.tree.map(
                lambda all_, new: adapter.insert_rows(all_, new, own, state.used_n),
                state.neurons,
                neurons,
            ),
            state.used_n + own.sum(),
            adapter.insert_rows(state.memory, x, own, state.memories_n, wrap=True),
            state.memories_n + own.sum(),
        )

    def scale_values(self, neurons: Neurons, own: Bool[Array, " T"]) -> Neurons:
        """Neurons with their real values, and none where no answer is predicted."""
        return neurons._replace(value=jnp.where(own[:, None], self.amplify * neurons.value, 0))

    def memories(self, backbone, weights, state, x, batch) -> tuple[Array, Array]:
        """What new neurons should be silent on, and which rows of it count."""
        text, role = adapter.drop_images(batch), batch.role[0]
        states = layer.mlp_states(backbone, weights, text, None)
        pictured = (role == Role.VISION).any()
        earlier = jnp.arange(len(role)) < adapter.prompt_end(batch.role)[0]
        stored = jnp.arange(self.memories_n) < state.memories_n
        counted = [earlier, (text.role[0] != Role.PAD) & pictured, stored]
        memory = [x, layer.mlp_input(backbone, weights, states)[0], state.memory]
        return jnp.concatenate(memory), jnp.concatenate(counted)

    def edited_output(self, backbone, weights, state, known, batch):
        """What MLP and neurons add."""
        x = layer.mlp_input(backbone, weights, known.states)
        return known.output + apply_neurons(state.neurons, x)

    def logits(self, backbone, params, state, known, batch, at):
        """The patched model's; no layer follows, so that other positions need no patches."""
        if at is not None:
            known = adapter.MlpStates(
                *(jnp.take_along_axis(part, at[..., None], 1) for part in known)
            )
        weights = params["backbone"]
        hidden = known.states + self.edited_output(backbone, weights, state, known, batch)
        return backbone.head(weights, hidden)
