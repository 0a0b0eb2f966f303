"""MEND (arXiv 2110.11309): a network turns a request's gradient into a change of weights.

    hidden ─ upper ─► loss ─► (read, error) of all tokens ─ network ─► change = -rate Σ read~ error~

The MLPs of all layers above `layer` change. A linear layer's gradient is a sum over tokens of outer
products: its input (`read`) by the loss's gradient with respect to its output (`error`). Both are
standardised and go through a residual network that all linear layers of one shape share, each with
a scale and an offset of its own. The sum is over the tokens of image, prompt and target; the image
enters as in any question. Each request's gradient is taken in the model as edited so far; training
makes single edits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from liveedit_jax.backbones import decoder
from liveedit_jax.backbones.quantise import dequantise
from liveedit_jax.baselines import prompting
from liveedit_jax.baselines.factors import (
    GradientFactors,
    add_changes,
    feature_statistics,
    gradient_factors,
)
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.baselines.trained import Lesson, TrainedEditor, TrainingRecipe
from liveedit_jax.types import Batch

BLOCKS_N = 2  # of the network, as in the paper


def running_average(statistics: dict, seen: dict) -> Float[Array, ""]:
    """Return zero, with the gradient that makes `statistics` the average of `seen`.

    That is so for descent at rate 1 / (step + 1).
    """
    pull = jax.tree.map(
        lambda own, new: (own * jax.lax.stop_gradient(own - new)).sum(), statistics, seen
    )
    total: Array = sum(jax.tree.leaves(pull), jnp.zeros(()))
    return total - jax.lax.stop_gradient(total)


@dataclass(frozen=True)
class MendRecipe(TrainingRecipe):
    """MEND's training: Adam for the network, averages over all steps for the statistics."""

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Return Adam for the network, and descent for the statistics (see `running_average`)."""
        average = optax.sgd(lambda step: 1 / (step + 1))
        kinds = dict.fromkeys(("blocks", "film", "log_rate"), "trained")
        return optax.multi_transform(
            {"trained": super().optimizer, "averaged": average}, kinds | {"statistics": "averaged"}
        )


@dataclass(frozen=True)
class Mend(TrainedEditor):
    """MEND's settings; the state is the sum of changes to each kernel, `{part: [L, X, Y]}`."""

    layer: int | None = -4  # three layers above it are edited
    rank: int = 96  # of the network's matrices
    start_rate: float = 3e-4  # of the change, at the start of training
    edit_weight: float = 0.1  # c_e
    recipe: TrainingRecipe = MendRecipe(steps_n=1_000, batch_n=8, learning_rate=3e-4)

    def init_params(self, backbone, weights, key):
        """Initialise a network that returns the factors as they are."""
        params: dict[str, dict] = {"statistics": {}, "blocks": {}, "film": {}, "log_rate": {}}
        for name in decoder.mlp_parts(backbone.cfg.decoder):
            shape, layers_n = _kernel_shape(weights["upper"], name), backbone.upper_n
            width, own = sum(shape), jax.random.fold_in(key, shape[0])
            start = jax.random.normal(own, (BLOCKS_N, width, self.rank)) * width**-0.5
            zeros, film = jnp.zeros((layers_n, width)), jnp.zeros((layers_n, BLOCKS_N, width))
            params["statistics"][name] = {"mean": zeros, "log_spread": zeros}
            params["film"][name] = {"scale": film + 1, "offset": film}
            params["log_rate"][name] = jnp.full(layers_n, math.log(self.start_rate), jnp.float32)
            params["blocks"]["{}x{}".format(*shape)] = {
                "reduce": start,
                "expand": jnp.zeros((BLOCKS_N, self.rank, width)),
                "bias": jnp.zeros((BLOCKS_N, width)),
            }
        return params

    def change(self, params: dict, name: str, factors: GradientFactors) -> Float[Array, "L X Y"]:
        """Compute one request's change to the linear layers of one name."""
        shape = factors.read.shape[-1], factors.error.shape[-1]
        block, film = params["blocks"]["{}x{}".format(*shape)], params["film"][name]

        def wide(leaf: Float[Array, "L W"]) -> Float[Array, "L 1 1 W"]:
            return leaf[:, None, None]

        mean, log_spread = (wide(params["statistics"][name][k]) for k in ("mean", "log_spread"))
        x = jax.lax.stop_gradient((factors.concatenated - mean) * jnp.exp(-log_spread))
        for k in range(BLOCKS_N):
            y = x @ block["reduce"][k] @ block["expand"][k] + block["bias"][k]
            y = wide(film["scale"][:, k]) * y + wide(film["offset"][:, k])
            x = x + (jnp.maximum(y, 0) if k == 0 else y)  # jax.nn.relu has no slope at the start
        read, error = jnp.split(x * factors.mask, [shape[0]], axis=-1)
        rate = jnp.exp(params["log_rate"][name])
        return -rate[:, None, None] * jnp.einsum("lbtx,lbty->lxy", read, error)

    def changes(self, params: dict, factors: dict[str, GradientFactors]) -> dict:
        """Compute one request's changes to all linear layers."""
        return {name: self.change(params, name, own) for name, own in factors.items()}

    def loss(self, backbone, params, lesson: Lesson, key):
        """Compute the loss of single edits: c_e * NLL, and KL(unedited || edited) of locality."""
        weights, own = params["backbone"], params["editor"]
        rows, kinds_n = prompting.concat_rows(lesson), len(lesson)
        hidden = self.encode(backbone, params, rows.batch, rows.seen)
        hidden, batch = jax.tree.map(
            lambda leaf: leaf.reshape(kinds_n, -1, *leaf.shape[1:]), (hidden, rows.batch)
        )

        def sample(hidden: Float[Array, "5 T D"], batch: Batch):
            request, asked = jax.tree.map(lambda leaf: leaf[:1], (hidden, batch))
            factors = gradient_factors(backbone, weights, request, asked)
            state = self.changes(own, factors)
            return self.logits(backbone, params, state, hidden, batch, None), factors

        made, factors = jax.vmap(sample, in_axes=1, out_axes=1)(hidden, batch)
        before = jnp.split(
            prompting.unedited_logits(backbone, weights, prompting.concat_rows(lesson[3:])), 2
        )
        right, same = {}, {}
        for name, asked, logits in zip(lesson._fields[:3], lesson[:3], made[:3], strict=True):
            right[name] = target_loss(backbone, logits, asked.batch)
        for name, asked, edited, original in zip(
            lesson._fields[3:], lesson[3:], made[3:], before, strict=True
        ):
            same[name] = prompting.locality_loss(backbone, edited, original, asked.batch)
        value = self.edit_weight * sum(right.values()) + sum(same.values())
        # one request a sample
        every = {
            name: GradientFactors(*(x[:, :, 0] for x in each)) for name, each in factors.items()
        }
        seen = {name: feature_statistics(each) for name, each in every.items()}
        return value + running_average(own["statistics"], seen), right | same

    def encode(self, backbone, params, batch, seen):
        """Compute the states in front of the first edited layer."""
        return backbone.lower_from_features(params["backbone"], batch, seen)

    def init(self, backbone, params, capacity):
        """Return changes of zero."""
        upper = params["backbone"]["upper"]
        return {
            name: jnp.zeros((backbone.upper_n, *_kernel_shape(upper, name)))
            for name in decoder.mlp_parts(backbone.cfg.decoder)
        }

    def edit(self, backbone, params, state, known, batch):
        """Add the network's change, from the request's gradient in the model as edited so far."""
        factors = gradient_factors(backbone, add_changes(params["backbone"], state), known, batch)
        return jax.tree.map(jnp.add, state, self.changes(params["editor"], factors))

    def logits(self, backbone, params, state, known, batch, at):
        """Compute the logits of the changed model."""
        return backbone.upper(add_changes(params["backbone"], state), known, batch, at)


def _kernel_shape(upper: dict, name: str) -> tuple[int, int]:
    return dequantise(upper[name])["kernel"].shape[1:]
