"""The training objective (paper section 4.3): losses of randomly masked edits, and of routing."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig, EditorTrainConfig
from liveedit_jax.editor import losses
from liveedit_jax.editor.attention import with_norm_stats
from liveedit_jax.editor.liveedit import (
    PreparedEditor,
    generate_expert,
    mix,
    prepare,
    prompt_words,
    routing_features,
    text_query,
    thresholds,
)
from liveedit_jax.editor.routing import similarity, soft_weights
from liveedit_jax.types import AnyArray, Batch, Expert


class Samples(NamedTuple):
    """S samples at the edit layer's output, with the labels of their loss.

    Logits are computed at the A positions `at` (None: at all T). `mask` is True at the positions
    that count: those that predict an answer token and, for reliability and generality with
    `train_eos`, the last answer token's, which predicts EOS.
    """

    hidden: Float[Array, "S T D"]
    batch: Batch  # for its tokens and roles; the image is not read again
    label: Int[Array, "S A"]
    mask: Bool[Array, "S A"]
    at: Int[Array, "S A"] | None = None


class Masks(NamedTuple):
    """The experts, of the batch's N, that each sample mixes; they stand in for hard routing."""

    reliability: Bool[Array, "B N"]
    generality: Bool[Array, "B N"]
    locality: Bool[Array, "B N"]


class Requests(NamedTuple):
    """N edit requests at the edit layer's output, from which experts are generated."""

    hidden: Float[Array, "N T D"]
    role: Int[AnyArray, "N T"]
    words: Float[Array, "N D"] | None = None  # `liveedit.prompt_words`


class Pool(NamedTuple):
    """The rows that routing pairs are drawn from: each sample's edit, generalities and locality.

    Both rows of a pair belong to the same sample, so that a batch can be split over devices without
    moving any row.
    """

    hidden: Float[Array, "B V T D"]
    role: Int[AnyArray, "B V T"]
    subject: Int[AnyArray, "B V"] | None = None  # for `routing_skip_same`


class Pairs(NamedTuple):
    """Pairs as indices into a sample's V rows: side 0 is the query, side 1 the edit."""

    neighbours: Int[Array, "2 B"]
    others: Int[Array, "2 B"]


def draw_masks(key: Array, owner: Int[Array, " N"], request: Int[Array, " B"]) -> Masks:
    """Draw which experts each sample mixes: the first n of the batch, plus its own.

    n ~ U{0..N} is drawn three times per sample. For reliability, the expert of the sample's
    `request` is added, for the generalities all experts of the sample, for locality none.

    Args:
        key: randomness.
        owner: the sample that each expert belongs to.
        request: the index of one of each sample's own experts.
    """
    b, n = request.shape[0], owner.shape[0]
    prefix = jax.random.randint(key, (3, b, 1), 0, n + 1)
    first = jnp.arange(n) < prefix  # bool[3, B, N]
    own = owner == jnp.arange(b)[:, None]
    drawn = jnp.arange(n) == request[:, None]
    return Masks(first[0] | drawn, first[1] | own, first[2])


def draw_pairs(key: Array, b: int, v: int) -> Pairs:
    """Draw routing pairs of B samples with V rows each: [edit, generalities..., locality].

    Neighbours: with probability 1/3 both sides are the locality probe; otherwise each side is,
    independently, the edit or a random generality, with probability 1/2 each. Non-neighbours: one
    side is the edit or a generality, the other the locality probe, in random order.
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
    editor: PreparedEditor,
    expert: Expert,
    reliability: Samples,
    generalities: tuple[Samples, ...],
    locality: Samples,
    masks: Masks,
) -> tuple[dict, dict]:
    """Compute the reliability, generality and locality losses in one pass of `upper`.

    Returns:
        The losses ("reliability", "generality" (a tuple), "locality"). For inspection, the
        residual f32[B, G, T, D] and logits f32[B, G, A, V] of the G groups of samples in the order
        of the arguments, and the unedited logits of the locality samples.
    """
    groups = (reliability, *generalities, locality)
    b, g = locality.hidden.shape[0], len(groups)

    def flat(*leaves: Array) -> Array:
        """Interleave groups sample by sample, so that a batch split over devices does not move."""
        return rearrange(list(leaves), "g b ... -> (b g) ...")

    every = jax.tree.map(flat, *groups)
    mask = flat(masks.reliability, *[masks.generality] * len(generalities), masks.locality)
    hidden, role = jax.lax.stop_gradient(every.hidden), every.batch.role
    tokens = with_norm_stats(hidden, cfg.norm_eps)
    words = prompt_words(cfg, backbone, weights, every.batch)
    text = text_query(cfg, editor, tokens, role, words)
    score = similarity(cfg, text, expert.text_key)
    weight = soft_weights(score, mask)  # f32[S, N]
    added = mix(cfg, editor.norm, hidden, role, weight, expert.down, expert.up)
    if cfg.official_double_layer:
        hidden = backbone.edit_layer_again(weights, hidden, every.batch)
    changed = backbone.keep_features(hidden, hidden + added, role)
    logits = backbone.upper(weights, changed, every.batch, every.at)

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


def routing_terms(
    cfg: EditorConfig,
    recipe: EditorTrainConfig,
    editor: PreparedEditor,
    pool: Pool,
    pairs: Pairs,
) -> dict:
    """Compute the soft and hard routing losses of B pairs of neighbours and B other pairs.

    Keys that are directions are fitted apart: their losses are 0.
    """
    soft, hard = ("soft_relative", "soft_absolute"), ("hard_neighbour", "hard_other")
    terms = dict.fromkeys((*soft, *hard), jnp.zeros(()))
    if not cfg.attends:
        return terms
    pool = pool._replace(hidden=jax.lax.stop_gradient(pool.hidden))

    def side(i: int) -> Pool:
        """Gather side i of all pairs, sample by sample: first its neighbours', then the others'."""
        kind = jnp.stack([pairs.neighbours[i], pairs.others[i]], axis=1)

        def pick(leaf: Array) -> Array:
            index = kind.reshape(kind.shape + (1,) * (leaf.ndim - 2))
            return rearrange(jnp.take_along_axis(leaf, index, axis=1), "b n ... -> (b n) ...")

        return jax.tree.map(pick, pool)

    first, second = side(0), side(1)
    assert editor.input is not None and editor.edit is not None
    text0, vision0, prompt = routing_features(cfg, editor.input, first.hidden, first.role)
    text1, vision1, _ = routing_features(cfg, editor.edit, second.hidden, second.role)
    threshold = thresholds(cfg, editor.input, prompt, vision0)

    def hard_loss(rows: slice, neighbours: bool) -> Float[Array, ""]:
        same = None
        if recipe.routing_skip_same:
            assert first.subject is not None and second.subject is not None
            same = first.subject[rows, None] == second.subject[rows]
        score = similarity(cfg, vision0[rows], vision1[rows])
        return losses.hard_routing(
            score, threshold[rows], neighbours, same, recipe.routing_repository_n
        )

    if cfg.text_direction_n is None:
        found = losses.soft_routing(similarity(cfg, text0[::2], text1[::2]))
        terms |= dict(zip(soft, found, strict=True))
    if cfg.image_direction_n is None:
        terms["hard_neighbour"] = hard_loss(slice(0, None, 2), neighbours=True)
        terms["hard_other"] = hard_loss(slice(1, None, 2), neighbours=False)
    return terms


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
    """Compute the loss of a step from states at the edit layer and the step's random draws.

    Args:
        cfg: the editor.
        recipe: the weights of the losses, and which routing pairs are negatives.
        backbone: the frozen model's functions.
        weights: the frozen model's weights; no gradient flows into them.
        params: the editor's parameters, with respect to which the loss is differentiated.
        requests: N edit requests.
        reliability: B samples.
        generalities: B samples of each kind.
        locality: B samples.
        pool: the rows that `pairs` refers to.
        masks: which experts each sample mixes (`draw_masks`).
        pairs: indices into the pool (`draw_pairs`).

    Returns:
        The loss, and (losses of `edit_terms`, losses of `routing_terms`, arrays for inspection).
    """
    editor = prepare(cfg, params)
    expert = generate_expert(
        cfg, editor, jax.lax.stop_gradient(requests.hidden), requests.role, requests.words
    )
    edits, seen = edit_terms(
        cfg, backbone, weights, editor, expert, reliability, generalities, locality, masks
    )
    routing = routing_terms(cfg, recipe, editor, pool, pairs)
    return weighted_sum(recipe, edits, routing), (edits, routing, seen)


def weighted_sum(cfg: EditorTrainConfig, edits: dict, routing: dict) -> Float[Array, ""]:
    """Sum the five groups of losses with the recipe's weights."""
    return (
        cfg.weight_reliability * edits["reliability"]
        + cfg.weight_generality * sum(edits["generality"])
        + cfg.weight_locality * edits["locality"]
        + cfg.weight_soft_routing * (routing["soft_relative"] + routing["soft_absolute"])
        + cfg.weight_hard_routing * (routing["hard_neighbour"] + routing["hard_other"])
    )
