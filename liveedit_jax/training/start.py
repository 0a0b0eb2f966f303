"""The start of an editor's training: a list of pure steps, chosen by the recipe.

Each step takes editor weights and returns others. A released recipe has none and starts from random
weights; ours standardise the norms, fit the generators and set the image routing to what the
frozen states say (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Array, Float

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig, EditorTrainConfig
from liveedit_jax.data.asked import draw_groups
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.facts import SOURCES
from liveedit_jax.data.instances import draw_instances
from liveedit_jax.training.addressing import (
    Edits,
    edits_of,
    fit,
    generator_head_width,
    start_generators,
)
from liveedit_jax.training.directions import Asked, Seen, ask, fit_image, fit_text, look
from liveedit_jax.training.image_start import mean_images, start_images
from liveedit_jax.training.statistics import standardised, start_norms


@dataclass(frozen=True, eq=False, kw_only=True)
class Frozen:
    """The frozen model's view of the training data, which every step of the start reads.

    Args:
        backbone: the frozen model's functions.
        weights: its weights, as training multiplies them.
        cfg: the editor.
        recipe: how it is trained.
        data: MojiEdit's batches.
        pictures: vision features of all its pictures, f32[X, P, D].
    """

    backbone: Backbone
    weights: dict
    cfg: EditorConfig
    recipe: EditorTrainConfig
    data: EditingData
    pictures: Float[Array, "X P D"]

    @cached_property
    def edits(self) -> Edits:
        """The edits of the first batches, at the edit layer."""
        return edits_of(
            self.backbone,
            self.weights,
            self.pictures,
            self.data,
            self.cfg.norm_eps,
            self.recipe.fit.batches_n,
        )

    @cached_property
    def images(self) -> Float[Array, "X D"]:
        """The mean state of every drawing; the two of an entity follow each other."""
        drawings = self.pictures[: self.data.drawings_n]
        return mean_images(self.backbone, self.weights, drawings, self.cfg.norm_eps)

    @cached_property
    def seen(self) -> Seen:
        """The training drawings and other pictures in several views, as image keys see them."""
        data, fit = self.data, self.recipe.directions
        drawings, subject = data.drawings(), [i // len(SOURCES) for i in range(data.drawings_n)]
        made = draw_instances(fit, drawings, subject, data.photographs(), self.recipe.seed)
        return look(self.backbone, self.weights, self.cfg, made)

    @cached_property
    def asked(self) -> Asked:
        """Many questions of each subject, as text keys see them."""
        opened = self.data.open
        free = () if opened is None else opened.questions.rows
        entities_n = self.data.drawings_n // len(SOURCES)
        groups = draw_groups(self.recipe.directions, entities_n, self.recipe.seed, free)
        eps = self.cfg.norm_eps
        return ask(self.backbone, self.weights, self.pictures, self.data, groups, eps)


StartStep = Callable[[Frozen, dict], dict]


def standardise_norms(frozen: Frozen, params: dict) -> dict:
    """Let the norms in front of text give every feature mean 0 and variance 1."""
    return start_norms(params, frozen.edits)


def fit_generators(frozen: Frozen, params: dict) -> dict:
    """Start the generators from a fit of where rows look and fire (training/addressing.py).

    Raises:
        ValueError: a generator head is narrower than the rank.
    """
    cfg, recipe = frozen.cfg, frozen.recipe
    generator_head_width(cfg)  # refused now rather than after the fit
    assert recipe.gate_gain is not None
    edits = standardised(frozen.edits, params["norm"]) if recipe.standardise else frozen.edits
    looks, gates, loss = fit(edits, cfg.rank, recipe.fit, recipe.seed)
    print(f"generators start fitted: losses {loss[0]:.3f} (looks), {loss[1]:.3f} (and gates)")
    return start_generators(cfg, params, looks, gates, recipe.gate_gain)


def calibrate_images(frozen: Frozen, params: dict) -> dict:
    """Let image routing compare mean states, with a calibrated sentinel (image_start.py)."""
    false_hits, repository_n = frozen.recipe.start_false_hits, frozen.recipe.routing_repository_n
    assert false_hits is not None and repository_n is not None
    share = false_hits / repository_n
    return start_images(frozen.cfg, params, frozen.images, share)


def fit_directions(frozen: Frozen, params: dict) -> dict:
    """Fit the keys that are directions (training/directions.py); other keys stay."""
    cfg, recipe = frozen.cfg, frozen.recipe
    kept = {n: part for n, part in params.items() if cfg.attends or n not in ("edit", "input")}
    if cfg.image_direction_n is not None:
        kept["image"] = fit_image(cfg, recipe.directions, frozen.seen, recipe.seed)
    if cfg.text_direction_n is not None:
        kept["text"] = fit_text(cfg, recipe.directions, frozen.asked, recipe.seed)
    return kept


def start_steps(
    cfg: EditorConfig, recipe: EditorTrainConfig, trained: bool
) -> tuple[StartStep, ...]:
    """Return the steps of a recipe.

    Args:
        cfg: the editor.
        recipe: how the editor is trained.
        trained: whether weights come from an earlier training, whose generators are kept.
    """
    steps: list[StartStep] = []
    if recipe.gate_gain is not None and not trained:
        if recipe.standardise:
            steps.append(standardise_norms)
        steps.append(fit_generators)
    if (cfg.image_direction_n, cfg.text_direction_n) != (None, None):
        steps.append(fit_directions)
    if recipe.start_false_hits is not None and cfg.image_direction_n is None:
        steps.append(calibrate_images)
    return tuple(steps)


def start_params(frozen: Frozen, params: dict, steps: tuple[StartStep, ...]) -> dict:
    """Take the steps one after the other."""
    for step in steps:
        params = step(frozen, params)
    return params
