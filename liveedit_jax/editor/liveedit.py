"""LiveEdit, put together: edits become experts, and queries are routed to experts.

    edit request ─ lower ─ generate_expert ─ add_edits ─► repository
    query ──────── lower ─ encode_query ─ route(repository) ─ residual ─ upper ─► logits

The `Repository` is the state; the backbone's weights and the editor's params never change.
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
from liveedit_jax.editor import directions, extractor, generator
from liveedit_jax.editor.attention import Tokens, init_norm, with_norm_stats
from liveedit_jax.editor.mixing import mix
from liveedit_jax.editor.refine import refine_experts
from liveedit_jax.editor.repository import add_edits, init_repository
from liveedit_jax.editor.routing import gather_experts, route, similarity
from liveedit_jax.types import AnyArray, Axis, Batch, Expert, Query, Repository, Role, Route


class PreparedEditor(NamedTuple):
    """The parameters of an editor with their constants folded, once per checkpoint.

    Keys are made by the two extractors, or by maps to directions where the config says so.
    """

    edit: extractor.Extractor | None
    input: extractor.Extractor | None
    down: generator.Generator
    up: generator.Generator
    norm: dict  # the one LayerNorm in front of all experts
    image: dict | None = None  # the map of pictures to directions
    text: dict | None = None  # the map of prompts to directions


SIDES = ("edit", "input")  # the two extractors


def init_params(key: Array, cfg: EditorConfig, width: int, vision_n: int) -> dict:
    """Initialise an editor for a decoder of `width` D and a sentinel of `vision_n` P rows.

    With `cfg.paired_init` both extractors get the same weights. There are no extractors where both
    keys are directions.
    """
    keys = jax.random.split(key, 4)
    params = {
        "down": generator.init_generator(keys[2], cfg, width),
        "up": generator.init_generator(keys[3], cfg, width),
        "norm": init_norm(width),
    }
    if cfg.attends:
        params["edit"] = extractor.init_extractor(keys[0], cfg, width, None)
        other = keys[1 - cfg.paired_init]
        params["input"] = extractor.init_extractor(other, cfg, width, vision_n)
    if cfg.image_direction_n is not None:
        params["image"] = directions.init_image(cfg, width)
    if cfg.text_direction_n is not None:
        params["text"] = directions.init_text(keys[1], cfg, width)
    return params


def prepare(cfg: EditorConfig, params: dict) -> PreparedEditor:
    """Fold the constants of an editor's parameters; training differentiates through it.

    The maps to directions are fitted apart (training/directions.py): no gradient reaches them.
    """
    edit, asked = (extractor.prepare(cfg, params[k]) if cfg.attends else None for k in SIDES)
    image, text = (jax.lax.stop_gradient(params.get(name)) for name in ("image", "text"))
    return PreparedEditor(
        edit=edit,
        input=asked,
        down=generator.prepare(cfg, params["down"]),
        up=generator.prepare(cfg, params["up"]),
        norm=params["norm"],
        image=image,
        text=text,
    )


def routing_features(
    cfg: EditorConfig,
    side: extractor.Extractor,
    hidden: Float[Array, "B T D"],
    role: Int[AnyArray, "B T"],
) -> tuple[Float[Array, "B H"], Float[Array, "B H"], Float[Array, "B E M"]]:
    """Compute one extractor's text and vision features, and the prompt's queries to the image."""
    tokens = with_norm_stats(hidden, cfg.norm_eps)
    text, prompt = extractor.prompt_features(side, tokens, role == Role.PROMPT)
    vision = extractor.vision_feature(side, prompt, tokens, role == Role.VISION)
    return rearrange(text, "b e m -> b (e m)"), rearrange(vision, "b e m -> b (e m)"), prompt


def thresholds(
    cfg: EditorConfig,
    side: extractor.Extractor,
    prompt: Float[Array, "B E M"],
    vision: Float[Array, "B H"],
) -> Float[Array, " B"]:
    """Compute the thresholds of hard routing: each query's similarity to the sentinel."""
    sentinel = rearrange(extractor.sentinel_feature(side, prompt), "b e m -> b (e m)")
    return (vision * sentinel).sum(-1) / (cfg.queries_n * cfg.module_width**0.5)


def generate_expert(
    cfg: EditorConfig,
    editor: PreparedEditor,
    hidden: Float[Array, "N T D"],
    role: Int[AnyArray, "N T"],
    words: Float[Array, "N D"] | None = None,
) -> Expert:
    """Generate the experts of N edits from the edit layer's output for (image, prompt, target).

    `words` is `prompt_words`.
    """
    tokens = with_norm_stats(hidden, cfg.norm_eps)
    text, vision = edit_keys(cfg, editor, hidden, role, words)
    body_mask = (role == Role.VISION) | (role == Role.PROMPT) | (role == Role.ANSWER)
    return Expert(
        text_key=text,
        vision_key=vision,
        down=generator.generate(cfg, editor.down, tokens, body_mask),
        up=generator.generate(cfg, editor.up, tokens, body_mask),
    )


def encode_query(
    cfg: EditorConfig,
    editor: PreparedEditor,
    hidden: Float[Array, "B T D"],
    role: Int[AnyArray, "B T"],
    words: Float[Array, "B D"] | None = None,
) -> Query:
    """Compute the routing queries of B rows (paper equation 4); `words` is `prompt_words`.

    A row without an image gets an infinite threshold, so that it hits nothing.
    """
    text = vision = threshold = growth = None
    if editor.input is not None:
        text, vision, prompt = routing_features(cfg, editor.input, hidden, role)
        threshold = thresholds(cfg, editor.input, prompt, vision)
    tokens = with_norm_stats(hidden, cfg.norm_eps)
    if editor.image is not None:
        found = directions.direction(editor.image, directions.picture_features(cfg, tokens, role))
        vision, threshold = directions.image_query(cfg, found), editor.image["threshold"]
        growth = jnp.full(len(role), editor.image["growth"])
    if editor.text is not None:
        text = text_query(cfg, editor, tokens, role, words)
    assert text is not None and vision is not None and threshold is not None
    has_image = (role == Role.VISION).any(-1)
    return Query(text, vision, jnp.where(has_image, threshold, jnp.inf), growth)


def edit_keys(
    cfg: EditorConfig,
    editor: PreparedEditor,
    hidden: Float[Array, "N T D"],
    role: Int[AnyArray, "N T"],
    words: Float[Array, "N D"] | None,
) -> tuple[Float[Array, "N H"], Float[Array, "N H_image"]]:
    """Compute the text and vision keys of N edits (paper equation 3)."""
    text = vision = None
    if editor.edit is not None:
        text, vision, _ = routing_features(cfg, editor.edit, hidden, role)
    tokens = with_norm_stats(hidden, cfg.norm_eps)
    if editor.image is not None:
        vision = directions.direction(editor.image, directions.picture_features(cfg, tokens, role))
    if editor.text is not None:
        assert words is not None
        asked = directions.prompt_features(tokens, role, words)
        text = directions.text_key(directions.direction(editor.text, asked))
    assert text is not None and vision is not None
    return text, vision


def text_query(
    cfg: EditorConfig,
    editor: PreparedEditor,
    tokens: Tokens,
    role: Int[AnyArray, "B T"],
    words: Float[Array, "B D"] | None,
) -> Float[Array, "B H"]:
    """Compute the text part of B routing queries."""
    if editor.text is None:
        assert editor.input is not None
        text, _ = extractor.prompt_features(editor.input, tokens, role == Role.PROMPT)
        return rearrange(text, "b e m -> b (e m)")
    assert words is not None
    asked = directions.prompt_features(tokens, role, words)
    return directions.text_query(cfg, editor.text, directions.direction(editor.text, asked))


def prompt_words(
    cfg: EditorConfig, backbone: Backbone, weights: dict, batch: Batch
) -> Float[Array, "B D"] | None:
    """Compute the mean embedding of each prompt's tokens, where text keys are made of it."""
    return None if cfg.text_direction_n is None else backbone.mean_word(weights, batch)


def residual(
    cfg: EditorConfig,
    editor: PreparedEditor,
    repo: Repository,
    hidden: Float[Array, "B T D"],
    role: Int[AnyArray, "B T"],
    routed: Route,
    axis: Axis | None = None,
) -> Float[Array, "B T D"]:
    """Compute the residual of routed experts; it is exactly zero for a query without hits.

    With `axis`, every device applies the experts it holds, and the results are summed over devices.
    """
    added = mix(cfg, editor.norm, hidden, role, *gather_experts(repo, routed, axis))
    return added if axis is None else jax.lax.psum(added, axis)


class RoutedExperts(NamedTuple):
    """The experts that B queries are routed to, gathered, and the LayerNorm in front of them."""

    norm: dict
    weight: Float[Array, "B K"]
    down: Float[Array, "B K R D"]
    up: Float[Array, "B K R D"]


@dataclass(frozen=True)
class AddExperts:
    """The `intervene` function of generation, which adds experts; equal configs compare equal."""

    cfg: EditorConfig

    def __call__(
        self, plan: RoutedExperts, hidden: Float[Array, "B T D"], role: Int[AnyArray, "B T"]
    ) -> Float[Array, "B T D"]:
        """Add the residual of the plan's experts to the hidden states."""
        return hidden + mix(self.cfg, plan.norm, hidden, role, plan.weight, plan.down, plan.up)


def init(cfg: EditorConfig, width: int, capacity: int) -> Repository:
    """Create the state before the first edit: an empty repository of `capacity` rows."""
    return init_repository(cfg, width, capacity)


def experts_of_batch(
    cfg: EditorConfig,
    backbone: Backbone,
    weights: dict,
    editor: PreparedEditor,
    batch: Batch,
    hidden: Float[Array, "N T D"],
) -> Expert:
    """Make the experts of N requests, whose states at the edit layer are `hidden`.

    They are generated and, with `cfg.refine_n`, refined.
    """
    words = prompt_words(cfg, backbone, weights, batch)
    made = generate_expert(cfg, editor, hidden, batch.role, words)
    return refine_experts(cfg, backbone, weights, editor.norm, made, hidden, batch)


def queries_of_batch(
    cfg: EditorConfig,
    backbone: Backbone,
    weights: dict,
    editor: PreparedEditor,
    batch: Batch,
    hidden: Float[Array, "B T D"],
) -> Query:
    """Compute the routing queries of B rows, whose states at the edit layer are `hidden`."""
    words = prompt_words(cfg, backbone, weights, batch)
    return encode_query(cfg, editor, hidden, batch.role, words)


def make_experts(
    cfg: EditorConfig, backbone: Backbone, weights: dict, editor: PreparedEditor, batch: Batch
) -> Expert:
    """Make the experts of N requests (image, prompt, target) from tokens and pixels."""
    hidden = backbone.lower(weights, batch)
    return experts_of_batch(cfg, backbone, weights, editor, batch, hidden)


def lower_and_route(
    cfg: EditorConfig,
    backbone: Backbone,
    weights: dict,
    editor: PreparedEditor,
    repo: Repository,
    batch: Batch,
    at: Int[Array, ""] | None = None,
) -> tuple[Float[Array, "B T D"], Route]:
    """Compute the edit layer's output of B queries, and route them as of clock `at` (None: now)."""
    hidden = backbone.lower(weights, batch)
    query = queries_of_batch(cfg, backbone, weights, editor, batch, hidden)
    return hidden, route(cfg, repo, query, at)


def edit(
    cfg: EditorConfig,
    backbone: Backbone,
    params: dict,
    repo: Repository,
    batch: Batch,
    edit_id: Int[Array, " N"],
    valid: Bool[Array, " N"],
) -> tuple[Repository, Int[Array, " N"]]:
    """Turn N requests (image, prompt, target) into experts and store them.

    Returns:
        The repository, and each edit's row as in `add_edits`.
    """
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
    """Compute the edited model's logits, and the routes, as of clock `at` (None: now)."""
    editor = prepare(cfg, params["editor"])
    hidden, routed = lower_and_route(cfg, backbone, params["backbone"], editor, repo, batch, at)
    changed = hidden + residual(cfg, editor, repo, hidden, batch.role, routed)
    hidden = backbone.keep_features(hidden, changed, batch.role)
    return backbone.upper(params["backbone"], hidden, batch), routed


__all__ = [
    "AddExperts",
    "PreparedEditor",
    "RoutedExperts",
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
    "prompt_words",
    "residual",
    "routing_features",
    "similarity",
    "text_query",
    "thresholds",
]
