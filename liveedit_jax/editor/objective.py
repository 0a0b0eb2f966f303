"""The training objective: edit terms under random expert masks, and routing terms (section 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig, EditorTrainConfig
from liveedit_jax.editor import extractor, losses
from liveedit_jax.editor.attention import measured
from liveedit_jax.editor.liveedit import (
    Prepared,
    generate_expert,
    mix,
    prepare,
    routing_features,
    thresholds,
)
from liveedit_jax.editor.routing import similarity, soft_weights
from liveedit_jax.types import Batch, Expert, Role


class Samples(NamedTuple):
    """S samples at the edit layer's output, with the labels their loss reads.

    Logits are read at the positions `at` (None: at all T, and A is T). `mask` is True where a
    position counts: those that predict an answer token and, with `train_eos`, in reliability and
    generality the last answer token's, which predicts EOS.
    """

    hidden: Float[Array, "S T D"]
    batch: Batch  # token and role; its image is not read again
    label: Int[Array, "S A"]
    mask: Bool[Array, "S A"]
    at: Int[Array, "S A"] | None = None


class Masks(NamedTuple):
    """Which of the batch's N experts each sample mixes; these replace hard routing."""

    reliability: Bool[Array, "B N"]
    generality: Bool[Array, "B N"]
    locality: Bool[Array, "B N"]


class Requests(NamedTuple):
    """N edit requests at the edit layer's output: what experts are generated from."""

    hidden: Float[Array, "N T D"]
    role: Int[Array, "N T"]


class Pool(NamedTuple):
    """What routing pairs are drawn from: of every sample its edit, generalities and locality probe.

    A pair is of one sample, so that a batch that is split over devices stays where it is.
    """

    hidden: Float[Array, "B V T D"]
    role: Int[Array, "B V T"]
    subject: Int[Array, "B V"] | None = None  # what each is about, for `routing_skip_same`


class Pairs(NamedTuple):
    """Which of a sample's V rows: side 0 goes through the input extractor, side 1 the edit one."""

    neighbours: Int[Array, "2 B"]
    others: Int[Array, "2 B"]


def draw_masks(key: Array, owner: Int[Array, " N"], request: Int[Array, " B"]) -> Masks:
    """Random prefixes of the batch's experts, plus the sample's own.

    n ~ U{0..N} is drawn three times per sample: for reliability (plus the drawn request's expert),
    for all generalities together (plus all the sample's experts), for locality (nothing added).

    Args:
        key: randomness.
        owner: the sample that each expert belongs to.
        request: the drawn request (an expert's row) of each sample.
    """
    b, n = request.shape[0], owner.shape[0]
    prefix = jax.random.randint(key, (3, b, 1), 0, n + 1)
    first = jnp.arange(n) < prefix  # bool[3, B, N]
    own = owner == jnp.arange(b)[:, None]
    drawn = jnp.arange(n) == request[:, None]
    return Masks(first[0] | drawn, first[1] | own, first[2])


def draw_pairs(key: Array, b: int, v: int) -> Pairs:
    """Routing pairs of B samples with V rows each: [edit, generalities..., locality].

    Neighbours: with probability 1/3 both sides are the locality probe, otherwise each side is
    independently the edit or (1/2) a generality of uniform kind. Non-neighbours: the edit or a
    generality against the same sample's locality probe, which is which by a coin.
    """
    keys = jax.random.split(key, 4)

    def edit_or_generality(key):
        coin, kind = jax.random.split(key)
        which = jax.random.randint(kind, (b,), 1, max(v - 1, 2))
        some = v > 2  # with no generality at hand it is always the edit
        return jnp.where(jax.random.bernoulli(coin, 0.5, (b,)) & some, which, 0)

    sides = jnp.stack([edit_or_generality(k) for k in jax.random.split(keys[0])])
    neighbours = jnp.where(jax.random.bernoulli(keys[1], 1 / 3, (b,)), v - 1, sides)
    inside = edit_or_generality(keys[2])
    coin = jax.random.bernoulli(keys[3], 0.5, (b,))
    others = jnp.stack([jnp.where(coin, inside, v - 1), jnp.where(coin, v - 1, inside)])
    return Pairs(neighbours, others)


def edit_terms(
    cfg: EditorConfig,
    backbone: Backbone,
    weights: dict,
    editor: Prepared,
    expert: Expert,
    reliability: Samples,
    generalities: tuple[Samples, ...],
    locality: Samples,
    masks: Masks,
) -> tuple[dict, dict]:
    """Reliability, generality and locality losses; all samples share one pass of `upper`.

    Returns:
        The terms ("reliability", "generality" (a tuple), "locality") and, for inspection, the
        residual f32[B, G, T, D] and logits f32[B, G, A, V] of the G groups in the order of the
        arguments, and the locality samples' unedited logits.
    """
    groups = (reliability, *generalities, locality)
    b, g = locality.hidden.shape[0], len(groups)

    def flat(*leaves: Array) -> Array:
        """Sample by sample: where a batch is split over devices, none of it moves."""
        return rearrange(list(leaves), "g b ... -> (b g) ...")

    every = jax.tree.map(flat, *groups)
    mask = flat(masks.reliability, *[masks.generality] * len(generalities), masks.locality)
    hidden, role = jax.lax.stop_gradient(every.hidden), every.batch.role
    tokens = measured(hidden, cfg.norm_eps)
    text, _ = extractor.prompt_features(editor.input, tokens, role == Role.PROMPT)
    score = similarity(cfg, rearrange(text, "b e m -> b (e m)"), expert.text_key)
    weight = soft_weights(score, mask)  # f32[S, N]
    added = mix(cfg, editor.norm, hidden, role, weight, expert.down, expert.up)
    if cfg.official_double_layer:
        hidden = backbone.edit_layer_again(weights, hidden, every.batch)
    logits = backbone.upper(weights, hidden + added, every.batch, every.at)

    hidden, added, logits = (x.reshape(b, g, *x.shape[1:]) for x in (hidden, added, logits))
    original = backbone.upper(weights, hidden[:, -1], locality.batch, locality.at)
    original = jax.lax.stop_gradient(original)
    nll = [losses.answer_nll(logits[:, i], x.label, x.mask) for i, x in enumerate(groups[:-1])]
    terms = {
        "reliability": nll[0],
        "generality": tuple(nll[1:]),
        "locality": losses.locality_kl(logits[:, -1], original, locality.mask, cfg.locality_kl),
    }
    return terms, {"residual": added, "logits": logits, "original": original}


def calibrated_thresholds(
    cfg: EditorConfig,
    params: dict,
    prompt: Float[Array, "C E M"],
    vision: Float[Array, "C H"],
    aside: Bool[Array, " C"],
) -> Float[Array, " C"]:
    """Thresholds whose gradient reaches the sentinel from rows `aside` and from no others.

    Those rows teach the sentinel alone, the others everything but it. Extractors learn the subjects
    of training by heart, and a threshold that fits those is too high for subjects of later edits.
    """
    fixed, side = jax.lax.stop_gradient((params["input"], (prompt, vision))), params["input"]
    alone = extractor.prepare(cfg, fixed[0] | {"sentinel": side["sentinel"]})
    rest = extractor.prepare(cfg, side | {"sentinel": fixed[0]["sentinel"]})
    return jnp.where(
        aside, thresholds(cfg, alone, *fixed[1]), thresholds(cfg, rest, prompt, vision)
    )


def routing_terms(
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    params: dict,
    editor: Prepared,
    pool: Pool,
    pairs: Pairs,
) -> dict:
    """Soft and hard routing losses on B neighbours and B others, drawn from a pool."""
    b = len(pool.role)
    pool = pool._replace(hidden=jax.lax.stop_gradient(pool.hidden))

    def side(i: int) -> Pool:
        """Rows sample by sample: its neighbour's, then the other's."""
        kind = jnp.stack([pairs.neighbours[i], pairs.others[i]], axis=1)

        def pick(leaf: Array) -> Array:
            index = kind.reshape(kind.shape + (1,) * (leaf.ndim - 2))
            return rearrange(jnp.take_along_axis(leaf, index, axis=1), "b n ... -> (b n) ...")

        return jax.tree.map(pick, pool)

    first, second = side(0), side(1)
    text0, vision0, prompt = routing_features(cfg, editor.input, first.hidden, first.role)
    text1, vision1, _ = routing_features(cfg, editor.edit, second.hidden, second.role)
    aside = jnp.zeros(2 * b, bool)
    if recipe.calibration_every is None:
        threshold = thresholds(cfg, editor.input, prompt, vision0)
    else:
        aside, aside1 = (x.subject % recipe.calibration_every == 0 for x in (first, second))
        threshold = calibrated_thresholds(cfg, params, prompt, vision0, aside)
        vision1 = jnp.where(aside1[:, None], jax.lax.stop_gradient(vision1), vision1)

    relative, absolute = losses.soft_routing(similarity(cfg, text0[::2], text1[::2]))

    def hard(rows: slice, neighbours: bool) -> Float[Array, ""]:
        same = None
        if recipe.routing_skip_same:
            same = first.subject[rows, None] == second.subject[rows]
        score = similarity(cfg, vision0[rows], vision1[rows])
        score = jnp.where(aside[rows, None], jax.lax.stop_gradient(score), score)
        return losses.hard_routing(
            score, threshold[rows], neighbours, same, recipe.routing_repository_n
        )

    return {
        "soft_relative": relative,
        "soft_absolute": absolute,
        "hard_neighbour": hard(slice(0, None, 2), neighbours=True),
        "hard_other": hard(slice(1, None, 2), neighbours=False),
    }


def training_loss(
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    backbone: Backbone,
    weights: dict,
    params: dict,
    requests: Requests,
    reliability: Samples,
    generalities: tuple[Samples, ...],
    locality: Samples,
    pool: Pool,
    masks: Masks,
    pairs: Pairs,
) -> tuple[Float[Array, ""], tuple[dict, dict, dict]]:
    """The loss of one step, a pure function of `lower` states and the step's random draws.

    Args:
        cfg: the editor.
        recipe: the weights of the five groups, and which routing pairs are negatives.
        backbone: the frozen model's functions.
        weights: the frozen model's weights; no gradient flows into them.
        params: the editor's weights, which the loss is differentiated by.
        requests: N edit requests.
        reliability: B samples.
        generalities: B samples for each kind.
        locality: B samples.
        pool: states that `pairs` are drawn from.
        masks: which experts each sample mixes (`draw_masks`).
        pairs: rows of the pool (`draw_pairs`).

    Returns:
        The loss, and (edit terms, routing terms, what `edit_terms` saw).
    """
    editor = prepare(cfg, params)
    expert = generate_expert(cfg, editor, jax.lax.stop_gradient(requests.hidden), requests.role)
    edits, seen = edit_terms(
        cfg, backbone, weights, editor, expert, reliability, generalities, locality, masks
    )
    routing = routing_terms(cfg, recipe, params, editor, pool, pairs)
    return total(recipe, edits, routing), (edits, routing, seen)


def total(cfg: EditorTrainConfig, edits: dict, routing: dict) -> Float[Array, ""]:
    """The weighted sum of the five groups."""
    return (
        cfg.weight_reliability * edits["reliability"]
        + cfg.weight_generality * sum(edits["generality"])
        + cfg.weight_locality * edits["locality"]
        + cfg.weight_soft_routing * (routing["soft_relative"] + routing["soft_absolute"])
        + cfg.weight_hard_routing * (routing["hard_neighbour"] + routing["hard_other"])
    )
