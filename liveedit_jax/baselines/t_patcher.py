"""Transformer-Patcher (arXiv 2301.09785): new neurons in the last layer's MLP for each edit.

Each token of an edit's answer, and EOS, has a neuron of its own, relu(key . x + bias) * value; x is
the MLP's input at the position that predicts the token. The neuron is trained to be active there
and silent on memories: the row's earlier tokens (image and prompt), all tokens of the row without
its picture, and the positions that predict earlier edits' answers. The paper draws its memories
from training data, which is not at hand at edit time. The image enters through the states alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.baselines import adapter, layer
from liveedit_jax.editor.descent import descend
from liveedit_jax.types import Role


class Neurons(NamedTuple):
    """N neurons; an unused one has the value zero and adds nothing."""

    key: Float[Array, "N D"]
    bias: Float[Array, " N"]
    value: Float[Array, "N D"]


class Patches(NamedTuple):
    """The neurons of all edits, the first `used_n` in use, and a ring buffer of M memories."""

    neurons: Neurons
    used_n: Int[Array, ""]
    memory: Float[Array, "M D"]
    memories_n: Int[Array, ""]  # memories ever written


def apply_neurons(neurons: Neurons, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Compute the output of neurons."""
    return jax.nn.relu(x @ neurons.key.T + neurons.bias) @ neurons.value


def activation_penalty(x: Float[Array, "M T"], counted: Bool[Array, "M T"]) -> Float[Array, ""]:
    """Average exp(x) over the counted entries above zero; 0 without any."""
    over = counted & (x > 0)
    return jnp.where(over, jnp.exp(jnp.where(over, x, 0)), 0).sum() / jnp.maximum(over.sum(), 1)


@dataclass(frozen=True)
class TPatcher(adapter.MlpAdapter):
    """T-Patcher's settings; the state is the patches."""

    layer: int | None = -1
    tokens_n: int = 32  # neurons allocated per edit; all edits share them
    memories_n: int = 512  # of the latest edits
    activation_weight: float = 1.0
    memory_weight: float = 1.0
    silent: float = -6.0  # beta: the most a memory should give before the ReLU
    apart: float = 6.0  # gamma: by how much, at least, a memory should give less than the own token
    amplify: float = 10.0  # factor from learnt to real values
    learning_rate: float = 1e-2
    steps_n: int = 100
    stop_loss: float = 0.01

    def init(self, backbone, params, capacity):
        """Return patches without neurons in use.

        Raises:
            ValueError: `layer` is not the last one.
        """
        if backbone.upper_n:
            raise ValueError("patches stand beside the last layer's MLP: layer=-1")
        n, d = capacity * self.tokens_n, backbone.cfg.width
        neurons = Neurons(jnp.zeros((n, d)), jnp.zeros(n), jnp.zeros((n, d)))
        none = jnp.zeros((), jnp.int32)
        return Patches(neurons, none, jnp.zeros((self.memories_n, d)), none)

    def edit(self, backbone, params, state, known, batch):
        """Add and train a neuron for each position that predicts the request's answer."""
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

        norm = jnp.square(x).sum(-1, keepdims=True)  # initial activations are 1
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
        """Scale learnt values to real ones, and zero those of positions that predict no answer."""
        return neurons._replace(value=jnp.where(own[:, None], self.amplify * neurons.value, 0))

    def memories(self, backbone, weights, state, x, batch) -> tuple[Array, Array]:
        """Collect the inputs that new neurons should be silent on; a mask says which count."""
        text, role = adapter.drop_images(batch), batch.role[0]
        states = layer.mlp_states(backbone, weights, text, None)
        pictured = (role == Role.VISION).any()
        earlier = jnp.arange(len(role)) < adapter.prompt_end(batch.role)[0]
        stored = jnp.arange(self.memories_n) < state.memories_n
        counted = [earlier, (text.role[0] != Role.PAD) & pictured, stored]
        memory = [x, layer.mlp_input(backbone, weights, states)[0], state.memory]
        return jnp.concatenate(memory), jnp.concatenate(counted)

    def edited_output(self, backbone, weights, state, known, batch):
        """Add the neurons' output to the MLP's."""
        x = layer.mlp_input(backbone, weights, known.states)
        return known.output + apply_neurons(state.neurons, x)

    def logits(self, backbone, params, state, known, batch, at):
        """Compute the patched model's logits; as no layer follows, only at positions `at`."""
        if at is not None:
            known = adapter.MlpStates(
                *(jnp.take_along_axis(part, at[..., None], 1) for part in known)
            )
        weights = params["backbone"]
        hidden = known.states + self.edited_output(backbone, weights, state, known, batch)
        return backbone.head(weights, hidden)
