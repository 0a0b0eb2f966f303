"""GRACE (arXiv 2211.11031): a codebook of keys, radii and values as an adapter of one MLP.

Keys and queries are the MLP's input at the prompt's last token, which attends to the image if there
is one. If the nearest key is within its radius (Euclidean distance), its value replaces the MLP's
output at the prompt's last token and at every later one; otherwise the model is exactly the
unedited one. As in the released code, a value replaces the output of the MLP and not the residual
stream, so that answer tokens stay distinct although all of them get the same value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from liveedit_jax.baselines import adapter
from liveedit_jax.editor.descent import descend
from liveedit_jax.types import Batch, Role

PRIME = 16_777_619  # base of the fingerprint
SAME_KEY_SHARE = 1e-3  # of the first radius: closer keys are taken for the same question's


class Codebook(NamedTuple):
    """A codebook of C entries, the first `used_n` of them in use."""

    key: Float[Array, "C D"]
    value: Float[Array, "C D"]
    radius: Float[Array, " C"]
    target: UInt32[Array, " C"]
    used_n: Int[Array, ""]


def fingerprint(batch: Batch) -> UInt32[Array, " B"]:
    """Hash every row's answer tokens, in order, to a number: equal targets have equal numbers."""
    answer = jnp.asarray(batch.role) == Role.ANSWER
    power = jnp.cumprod(jnp.full(answer.shape, PRIME, jnp.uint32), axis=1)
    place = jnp.maximum(jnp.cumsum(answer, axis=1) - 1, 0)
    power = jnp.take_along_axis(power, place, axis=1)
    token = jnp.asarray(batch.token).astype(jnp.uint32) + 1
    return jnp.where(answer, token * power, 0).sum(1, dtype=jnp.uint32)


def nearest_entries(book: Codebook, query: Float[Array, "B D"]) -> tuple[Array, Array]:
    """Return the distances to the nearest keys (inf in an empty codebook), and their entries."""
    distance = jnp.linalg.norm(query[:, None] - book.key, axis=-1)
    used = jnp.arange(len(book.key)) < book.used_n
    distance = jnp.where(used, distance, jnp.inf)
    return distance.min(1), distance.argmin(1)


def allocate_entry(
    book: Codebook,
    key: Float[Array, " D"],
    value: Float[Array, " D"],
    target: UInt32[Array, ""],
    radius: float | Float[Array, ""],
) -> tuple[Codebook, Int[Array, ""]]:
    """Allocate the codebook entry of an edit; return the codebook and the entry's index.

    - Further from the nearest key than both radii together: a new entry of this radius.
    - Closer, with the same target: the nearest entry, whose radius grows to include the key.
    - Closer, with another target: a new entry; both radii are cut to half the distance.
    - At (almost) no distance, where the last rule would leave neither entry reachable: the nearest
      entry is edited again.
    """
    distances, entries = nearest_entries(book, key[None])
    distance, near = distances[0], entries[0]
    own = book.radius[near]
    close = distance <= radius + own
    same = close & (book.target[near] == target)
    again = same | (distance < SAME_KEY_SHARE * radius)
    apart = jnp.minimum(own, distance / 2)
    kept = jnp.where(same, jnp.maximum(own, distance), jnp.where(close & ~again, apart, own))
    fresh = jnp.where(close, jnp.minimum(radius, distance / 2), radius)
    entry = jnp.where(again, near, book.used_n)
    return Codebook(
        key=book.key.at[entry].set(jnp.where(again, book.key[near], key)),
        value=book.value.at[entry].set(jnp.where(again, book.value[near], value)),
        radius=book.radius.at[near].set(kept).at[entry].set(jnp.where(again, kept, fresh)),
        target=book.target.at[entry].set(target),
        used_n=book.used_n + jnp.where(again, 0, 1),
    ), entry


@dataclass(frozen=True)
class Grace(adapter.MlpAdapter):
    """GRACE's settings; the state is the codebook."""

    layer: int | None = -3
    radius: float = 0.4  # of a new entry, times its key's norm, which depends on the model
    learning_rate: float = 1.0
    steps_n: int = 100
    stop_loss: float = 0.01  # nats a token

    def init(self, backbone, params, capacity):
        """Return an empty codebook."""
        vectors = jnp.zeros((capacity, backbone.cfg.width))
        return Codebook(
            key=vectors,
            value=vectors,
            radius=jnp.zeros(capacity),
            target=jnp.zeros(capacity, jnp.uint32),
            used_n=jnp.zeros((), jnp.int32),
        )

    def edit(self, backbone, params, state, known, batch):
        """Optimise the edit's value, from the MLP's output or from an old entry's value."""
        weights, covered = params["backbone"], adapter.prediction_mask(batch.role)
        key = adapter.query(backbone, weights, known, batch)[0]
        unedited = known.output[0, adapter.prompt_end(batch.role)[0]]
        radius = self.radius * jnp.linalg.norm(key)
        book, entry = allocate_entry(state, key, unedited, fingerprint(batch)[0], radius)

        def loss(value):
            output = replace_output(known.output, covered, value[None])
            return adapter.edited_loss(backbone, weights, known, output, batch)

        optimizer = optax.adam(self.learning_rate)
        value, _ = descend(loss, book.value[entry], optimizer, self.steps_n, self.stop_loss)
        return book._replace(value=book.value.at[entry].set(value))

    def edited_output(self, backbone, weights, state, known, batch):
        """Replace the output by the nearest entry's value, if its radius reaches the query."""
        distance, entry = nearest_entries(state, adapter.query(backbone, weights, known, batch))
        hit = distance <= state.radius[entry]
        covered = hit[:, None] & adapter.prediction_mask(batch.role)
        return replace_output(known.output, covered, state.value[entry])


def replace_output(
    output: Float[Array, "B T D"], covered: Bool[Array, "B T"], value: Float[Array, "B D"]
) -> Float[Array, "B T D"]:
    """Replace the MLP's output by a row's value at the covered positions."""
    return jnp.where(covered[..., None], value[:, None], output)
