"""LiveEdit, where the parts meet: an edit becomes an expert, a query is routed to experts.

    edit request ─ lower ─ generate_expert ─ add_edits ─► repository
    query ──────── lower ─ encode_query ─ route(repository) ─ residual ─ upper ─► logits

Weights are `{"backbone": ..., "editor": ...}` and never change; the `Repository` is the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import extractor, generator
from liveedit_jax.editor.attention import init_norm, layer_norm, measured
from liveedit_jax.editor.repository import add_edits, init_repository
from liveedit_jax.editor.routing import experts_of, route, similarity
from liveedit_jax.types import Axis, Batch, Expert, Query, Repository, Role, Route


class Prepared(NamedTuple):
    """An editor with every constant of a checkpoint computed once."""

    edit: extractor.Extractor
    input: extractor.Extractor
    down: generator.Generator
    up: generator.Generator
    norm: dict  # the one LayerNorm in front of all experts


def init_params(key: Array, cfg: EditorConfig, width: int, vision_n: int) -> dict:
    """Fresh editor weights for a decoder of `width` D and a sentinel of `vision_n` P rows.

    With `cfg.paired_init` both extractors start as one: a query's key is near that of an edit like
    it.
    """
    keys = jax.random.split(key, 4)
    return {
        "edit": extractor.init_extractor(keys[0], cfg, width, None),
        "input": extractor.init_extractor(keys[1 - cfg.paired_init], cfg, width, vision_n),
        "down": generator.init_generator(keys[2], cfg, width),
        "up": generator.init_generator(keys[3], cfg, width),
        "norm": init_norm(width),
    }


def prepare(cfg: EditorConfig, params: dict) -> Prepared:
    """Fold the constants of editor weights; differentiable."""
    return Prepared(
        edit=extractor.prepare(cfg, params["edit"]),
        input=extractor.prepare(cfg, params["input"]),
        down=generator.prepare(cfg, params["down"]),
        up=generator.prepare(cfg, params["up"]),
        norm=params["norm"],
    )


def routing_features(
    cfg: EditorConfig,
    side: extractor.Extractor,
    hidden: Float[Array, "B T D"],
    role: Int[Array, "B T"],
) -> tuple[Float[Array, "B H"], Float[Array, "B H"], Float[Array, "B E M"]]:
    """One side's text and vision features, flat, and the prompt feature (for the sentinel)."""
    tokens = measured(hidden, cfg.norm_eps)
    text, prompt = extractor.prompt_features(side, tokens, role == Role.PROMPT)
    vision = extractor.vision_feature(side, prompt, tokens, role == Role.VISION)
    return rearrange(text, "b e m -> b (e m)"), rearrange(vision, "b e m -> b (e m)"), prompt


def thresholds(
    cfg: EditorConfig,
    side: extractor.Extractor,
    prompt: Float[Array, "B E M"],
    vision: Float[Array, "B H"],
) -> Float[Array, " B"]:
    """How much an edit's image has to resemble each query's: as much as the sentinel does."""
    sentinel = rearrange(extractor.sentinel_feature(side, prompt), "b e m -> b (e m)")
    return (vision * sentinel).sum(-1) / (cfg.queries_n * cfg.module_width**0.5)


def generate_expert(
    cfg: EditorConfig, editor: Prepared, hidden: Float[Array, "N T D"], role: Int[Array, "N T"]
) -> Expert:
    """Experts of N edits from the edit layer's states of (image, prompt, target)."""
    tokens = measured(hidden, cfg.norm_eps)
    text, vision, _ = routing_features(cfg, editor.edit, hidden, role)
    body_mask = (role == Role.VISION) | (role == Role.PROMPT) | (role == Role.ANSWER)
    return Expert(
        text_key=text,
        vision_key=vision,
        down=generator.generate(cfg, editor.down, tokens, body_mask),
        up=generator.generate(cfg, editor.up, tokens, body_mask),
    )


def encode_query(
    cfg: EditorConfig, editor: Prepared, hidden: Float[Array, "B T D"], role: Int[Array, "B T"]
) -> Query:
    """Routing queries; a row without image gets an infinite threshold and hits nothing."""
    text, vision, prompt = routing_features(cfg, editor.input, hidden, role)
    threshold = thresholds(cfg, editor.input, prompt, vision)
    has_image = (role == Role.VISION).any(-1)
    return Query(text, vision, jnp.where(has_image, threshold, jnp.inf))


def mix(
    cfg: EditorConfig,
    norm: dict,
    hidden: Float[Array, "B T D"],
    role: Int[Array, "B T"],
    weight: Float[Array, "B K"],
    down: Float[Array, "B K R D"] | Float[Array, "K R D"],
    up: Float[Array, "B K R D"] | Float[Array, "K R D"],
) -> Float[Array, "B T D"]:
    """Σ_k weight_k · relu(LN(h) · down_kᵀ) · up_k at every position that is not padding.

    Bodies are per query (gathered), or without a batch axis shared by all queries.
    """
    tokens = layer_norm(norm, hidden, cfg.norm_eps)
    b = "b" if down.ndim == 4 else ""
    gate = jax.nn.relu(jnp.einsum(f"btd,{b}krd->btkr", tokens, down))
    out = jnp.einsum(f"btkr,{b}krd->btd", gate * weight[:, None, :, None], up)
    return jnp.where((role != Role.PAD)[..., None], out, 0.0).astype(hidden.dtype)


def residual(
    cfg: EditorConfig,
    editor: Prepared,
    repo: Repository,
    hidden: Float[Array, "B T D"],
    role: Int[Array, "B T"],
    routed: Route,
    axis: Axis | None = None,
) -> Float[Array, "B T D"]:
    """The routed experts' residual; exactly zero for a query that hit nothing.

    With `axis` every device applies the experts it holds, and only their sum crosses.
    """
    added = mix(cfg, editor.norm, hidden, role, *experts_of(repo, routed, axis))
    return added if axis is None else jax.lax.psum(added, axis)


class Plan(NamedTuple):
    """What generation carries from its prefill on: the routed experts of B queries."""

    norm: dict
    weight: Float[Array, "B K"]
    down: Float[Array, "B K R D"]
    up: Float[Array, "B K R D"]


@dataclass(frozen=True)
class AddExperts:
    """A plan's residual as `generation.greedy` applies it; equal configs are equal functions."""

    cfg: EditorConfig

    def __call__(
        self, plan: Plan, hidden: Float[Array, "B T D"], role: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """The hidden states with the plan's experts added."""
        return hidden + mix(self.cfg, plan.norm, hidden, role, plan.weight, plan.down, plan.up)


def init(cfg: EditorConfig, width: int, capacity: int) -> Repository:
    """The editing state before the first edit."""
    return init_repository(cfg, width, capacity)


def make_experts(
    cfg: EditorConfig, backbone: Backbone, weights: dict, editor: Prepared, batch: Batch
) -> Expert:
    """The experts of N requests (image, prompt, target), from tokens and pixels."""
    return generate_expert(cfg, editor, backbone.lower(weights, batch), batch.role)


def lower_and_route(
    cfg: EditorConfig,
    backbone: Backbone,
    weights: dict,
    editor: Prepared,
    repo: Repository,
    batch: Batch,
    at: Int[Array, ""] | None = None,
) -> tuple[Float[Array, "B T D"], Route]:
    """The edit layer's output of B queries and what they are routed to, now or as of clock `at`."""
    hidden = backbone.lower(weights, batch)
    return hidden, route(cfg, repo, encode_query(cfg, editor, hidden, batch.role), at)


def edit(
    cfg: EditorConfig,
    backbone: Backbone,
    params: dict,
    repo: Repository,
    batch: Batch,
    edit_id: Int[Array, " N"],
    valid: Bool[Array, " N"],
) -> tuple[Repository, Int[Array, " N"]]:
    """Turn N requests (image, prompt, target) into experts and store them."""
    editor = prepare(cfg, params["editor"])
    expert = make_experts(cfg, backbone, params["backbone"], editor, batch)
    return add_edits(repo, expert, edit_id, valid)


def logits(
    cfg: EditorConfig,
    backbone: Backbone,
    params: dict,
    repo: Repository,
    batch: Batch,
    at: Int[Array, ""] | None = None,
) -> tuple[Float[Array, "B T V"], Route]:
    """The edited model's logits and what each query was routed to, now or as of clock `at`."""
    editor = prepare(cfg, params["editor"])
    hidden, routed = lower_and_route(cfg, backbone, params["backbone"], editor, repo, batch, at)
    hidden = hidden + residual(cfg, editor, repo, hidden, batch.role, routed)
    return backbone.upper(params["backbone"], hidden, batch), routed


__all__ = [
    "AddExperts",
    "Plan",
    "Prepared",
    "edit",
    "encode_query",
    "generate_expert",
    "init",
    "init_params",
    "logits",
    "lower_and_route",
    "make_experts",
    "mix",
    "prepare",
    "residual",
    "routing_features",
    "similarity",
    "thresholds",
]
