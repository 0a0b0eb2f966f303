"""Initialise the generators: what the rows of an expert look at, and where they fire.

Row r of an expert says "after this state comes that token". `up` has to look at an answer token j
and write it, `down` to look at the token before it, and fire there and nowhere else. EOS has no
state to look at; what stands for it is the first prompt token, after LLaVA's image always the same
newline, and the token before it is the answer's last. Whether R rows
can share the tokens of an answer among themselves, and whether a row tells the state it looked at
from all others, are properties of the frozen states alone. So before training begins both are
fitted to them: first where rows look (`look_loss`), then that together with the map from what a row
of `down` looks at to what it fires on (`write_loss`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig, InitFitConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.editor.attention import masked_softmax, normalise
from liveedit_jax.types import AnyArray, Batch, Role

LOOK_BATCH_N, LOOK_RATE = 64, 1e-2
WRITE_BATCH_N, WRITE_RATE = 32, 5e-3
CALL_STEPS_N = 50  # of one compiled call
EOS = -1  # among token ids, where any will do that is no token's
LOOK_STD = 0.3  # of a fresh row's entries: scores of normalised states then differ by a few units


class Edits(NamedTuple):
    """N edits at the edit layer: normalised states (float16 holds them), their tokens and roles."""

    states: Float[AnyArray, "N T D"]
    token: Int[AnyArray, "N T"]
    role: Int[AnyArray, "N T"]


class Looks(NamedTuple):
    """Row r scores a normalised state h by <looks[r], h>; a softmax over tokens follows."""

    up: Float[Array, "R D"]
    down: Float[Array, "R D"]


class Gates(NamedTuple):
    """A look at h makes the `down` row h @ kernel + bias, which fires at t by <row, h_t>."""

    kernel: Float[Array, "D D"]
    bias: Float[Array, " D"]


def attention(looks: Float[Array, "R D"], edits: Edits) -> Float[Array, "N R T"]:
    """The share of each token in what each row looks at."""
    scores = jnp.einsum("rd,ntd->nrt", looks, edits.states)
    return masked_softmax(scores, _real(edits)[:, None])


class Items(NamedTuple):
    """The items that an edit has to write, by the token that `up` looks at for each."""

    mask: Bool[Array, "N T"]  # answer tokens, and the first prompt token for EOS
    token: Int[Array, "N T"]  # what is written: the token itself, or EOS
    place: Int[Array, "N T"]  # where: at the token before it
    due: Int[Array, "N T"]  # which token comes after each position


def items_of(edits: Edits) -> Items:
    """An edit's answer tokens and EOS."""
    answer, prompt = edits.role == Role.ANSWER, edits.role == Role.PROMPT
    here = jnp.arange(answer.shape[1])
    last = jnp.max(jnp.where(answer, here, 0), axis=1, keepdims=True)
    eos = prompt & (jnp.cumsum(prompt, axis=1) == 1)
    return Items(
        mask=answer | eos,
        token=jnp.where(eos, EOS, edits.token),
        place=jnp.where(eos, last, jnp.maximum(here - 1, 0)),
        due=jnp.where(here == last, EOS, jnp.roll(edits.token, -1, axis=1)),
    )


def look_loss(looks: Looks, edits: Edits) -> Float[Array, ""]:
    """Every item j is looked at by some row of `up` whose `down` looks at j's place.

    Mean over items of -log Σ_r up[r, j] · down[r, place of j], and a tenth of the cross-entropy of
    all rows: where `up` looks at an item, `down` shall look at its place.
    """
    items = items_of(edits)
    up = attention(looks.up, edits)
    before = jnp.take_along_axis(attention(looks.down, edits), items.place[:, None], axis=-1)
    covered = jnp.minimum((up * before).sum(1), 1.0)
    missed = jnp.sum(items.mask * -jnp.log(covered + 1e-4)) / jnp.maximum(items.mask.sum(), 1)
    up = up * items.mask[:, None]
    apart = (up * -jnp.log(before + 1e-9)).sum((1, 2)) / jnp.maximum(up.sum((1, 2)), 0.1)
    return missed + 0.1 * apart.mean()


def writes(looks: Looks, gates: Gates, edits: Edits) -> Float[Array, "N T T"]:
    """Compute how much of token j the rows write at position t, through relu gates: [n, j, t]."""
    seen = jnp.einsum("nrt,ntd->nrd", attention(looks.down, edits), edits.states)
    down = seen @ gates.kernel + gates.bias
    fires = jax.nn.relu(jnp.einsum("nrd,ntd->nrt", down, edits.states))
    return jnp.einsum("nrj,nrt->njt", attention(looks.up, edits), fires)


def placed(
    looks: Looks, gates: Gates, edits: Edits, items: Items
) -> tuple[Float[Array, "N T"], Float[Array, "N T T"]]:
    """Split what is written of each item: at its place, and where other tokens are due (else 0)."""
    written = writes(looks, gates, edits)
    right = jnp.take_along_axis(written, items.place[..., None], axis=-1)[..., 0]
    elsewhere = (items.due[:, None, :] != items.token[:, :, None]) & _real(edits)[:, None, :]
    return right, jnp.where(elsewhere, written, 0.0)


def write_loss(looks: Looks, gates: Gates, edits: Edits) -> Float[Array, ""]:
    """Mean over items j of (1 - written at j's place)² + Σ_t (written at t)².

    The sum runs over all positions that are not PAD and before another token than j's.
    """
    items = items_of(edits)
    right, wrong = placed(looks, gates, edits, items)
    error = (1 - right) ** 2 + (wrong**2).sum(-1)
    return jnp.sum(error * items.mask) / jnp.maximum(items.mask.sum(), 1)


def _real(edits: Edits) -> Bool[Array, "N T"]:
    return edits.role != Role.PAD


def fit(
    edits: Edits, rank: int, cfg: InitFitConfig, seed: int
) -> tuple[Looks, Gates, tuple[float, float]]:
    """Looks of `rank` rows, their gates, and the loss of each fit over its last tenth of steps."""
    width = edits.states.shape[-1]
    start_key, look_key, write_key = jax.random.split(jax.random.key(seed), 3)
    rows = LOOK_STD * jax.random.normal(start_key, (rank, width))

    def scaled(gates: Gates) -> Gates:
        # scores are sums of D products: fitted at D times their size, entries are of order 0.1
        return jax.tree.map(lambda leaf: leaf / width, gates)

    def written(fitted: tuple[Looks, Gates], some: Edits) -> Float[Array, ""]:
        return write_loss(fitted[0], scaled(fitted[1]), some)

    with tqdm(
        total=cfg.look_steps_n + cfg.write_steps_n, desc="looks and gates", mininterval=5
    ) as bar:
        looks, look_end = _adam(
            look_loss,
            Looks(rows, rows),
            edits,
            jax.random.split(look_key, cfg.look_steps_n),
            LOOK_BATCH_N,
            LOOK_RATE,
            cfg.look_decay,
            bar,
        )
        (looks, gates), write_end = _adam(
            written,
            (looks, Gates(jnp.eye(width) * 0.1, jnp.zeros(width))),
            edits,
            jax.random.split(write_key, cfg.write_steps_n),
            WRITE_BATCH_N,
            WRITE_RATE,
            cfg.write_decay,
            bar,
        )
    return looks, scaled(gates), (look_end, write_end)


def _adam(
    loss, params, edits: Edits, keys: Array, batch_n: int, rate: float, decay: float, bar: tqdm
):
    """`params` after a step of AdamW for each key (cosine to zero), the last tenth's mean loss."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, len(keys)), weight_decay=decay)
    n = len(edits.states)

    @jax.jit
    def steps(carry, edits, keys):
        def step(carry, key):
            params, moments = carry
            rows = jax.random.randint(key, (min(batch_n, n),), 0, n)
            some = jax.tree.map(lambda leaf: leaf[rows], edits)
            some = some._replace(states=some.states.astype(jnp.float32))
            value, grads = jax.value_and_grad(loss)(params, some)
            updates, moments = optimizer.update(grads, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        return jax.lax.scan(step, carry, keys)

    carry, values = (params, optimizer.init(params)), []
    for i in range(0, len(keys), CALL_STEPS_N):
        carry, some = steps(carry, edits, keys[i : i + CALL_STEPS_N])
        values.append(np.asarray(some))
        bar.update(len(some))
    return carry[0], float(np.concatenate(values)[-len(keys) // 10 :].mean())


def edits_of(
    backbone: Backbone,
    weights: dict,
    pictures: Float[Array, "X P D"],
    data: EditingData,
    eps: float,
    batches_n: int,
) -> Edits:
    """The edits of the first batches, padded to one T (zeros there); states as float16.

    It takes many: the fit learned 4,800 by heart (docs/method.md).
    """
    t = max(length for length, _ in data.lengths)

    @jax.jit
    def states_of(batch: Batch, features: Float[Array, "N P D"]) -> Float[Array, "N T D"]:
        return normalise(backbone.lower_from_features(weights, batch, features), eps)

    n = data.cfg.routing_n or data.cfg.batch_n
    found = Edits(
        np.zeros((batches_n * n, t, backbone.cfg.width), np.float16),
        np.zeros((batches_n * n, t), np.int32),
        np.zeros((batches_n * n, t), np.int8),
    )
    for i in tqdm(range(batches_n), desc="states to fit", mininterval=5):
        batch = data.batch(i)
        rows, length = slice(i * n, (i + 1) * n), batch.token.shape[-1]
        found.token[rows, :length] = batch.token[0]
        found.role[rows, :length] = batch.role[0]
        edits = without_pixels(batch.token[0], batch.role[0])
        found.states[rows, :length] = states_of(edits, pictures[batch.picture[0]])
    return jax.tree.map(jnp.asarray, found)


def generator_head_width(cfg: EditorConfig) -> int:
    """C, the entries of a generator head's keys.

    Raises:
        ValueError: a head is narrower than the rank, so that R looks do not fit into its keys.
    """
    heads_n = cfg.generator_heads_n or cfg.heads_n
    if cfg.module_width // heads_n < cfg.rank:
        raise ValueError(
            f"module_width={cfg.module_width} over {heads_n} generator heads is below "
            f"rank={cfg.rank}: fitted starts need a head of at least `rank`; use fewer heads"
        )
    return cfg.module_width // heads_n


def start_generators(cfg: EditorConfig, params: dict, looks: Looks, gates: Gates, gain: float):
    """Editor weights whose rows look by `looks`, and whose `down` is `gain` times `gates`.

    Raises:
        ValueError: a head is narrower than the rank.
    """
    c = generator_head_width(cfg)
    size = gain * cfg.expert_scale * cfg.rank**0.5  # bodies are divided by s * sqrt(R)
    started = dict(params)
    for side in Looks._fields:
        query, attention = _keys(getattr(looks, side), cfg.module_width, c)
        attention["v"] = params[side]["attention"]["v"]
        if side == "down":
            attention["v"] = {"kernel": size * gates.kernel, "bias": size * gates.bias}
        started[side] = params[side] | {"query": query, "attention": attention}
    return started


def _keys(looks: Float[Array, "R D"], module_width: int, c: int) -> tuple[Array, dict]:
    """Queries f32[R, M] and q and k maps by which every head scores states as `looks` do."""
    heads_n = module_width // c
    basis = jnp.linalg.svd(looks)[2][:c].T  # f32[D, C]: orthonormal, and looks lie in its span
    basis = jnp.pad(basis, ((0, 0), (0, c - basis.shape[1])))
    query = jnp.tile(looks @ basis * c**0.5, (1, heads_n))
    kernels = {"q": jnp.eye(module_width), "k": jnp.tile(basis, (1, heads_n))}
    # every leaf an array of its own: training donates them
    return query, {
        name: {"kernel": kernel, "bias": jnp.zeros(module_width)}
        for name, kernel in kernels.items()
    }
