"""A training of the editor before its first step: what it reads, and where its weights start."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace

import jax
from jaxtyping import Array, Float

from experiments.training.editor_arguments import is_public, open_world, starts_on_drawings
from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.backbones.linear import halve
from liveedit_jax.backbones.quantise import quantise
from liveedit_jax.config import EditorTrainConfig, Preset
from liveedit_jax.data.benchmark_training import BenchmarkData
from liveedit_jax.data.benchmarks import load_benchmark
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.prompts import PROMPTS
from liveedit_jax.data.tokenizer import Tokenizer, load_tokenizer
from liveedit_jax.model_io.model import load_backbone, model_folder
from liveedit_jax.model_io.weights import load_weights
from liveedit_jax.training.addressing import (
    edits_of,
    fit,
    generator_head_width,
    start_generators,
)
from liveedit_jax.training.editor import init_state, picture_features
from liveedit_jax.training.image_start import mean_images, start_images
from liveedit_jax.training.loop import saved_step
from liveedit_jax.training.optimizers import TrainState
from liveedit_jax.training.statistics import start_norms


@dataclass(frozen=True, eq=False)
class Frozen:
    """The half that is not trained.

    Args:
        backbone: what runs it.
        weights: split at the edit layer; dev is measured with them.
        used: the same as training multiplies them (`--bf16`).
        tokenizer: of the same folder.
        sha256: of the weights as they are stored.
    """

    backbone: Backbone
    weights: dict
    used: dict
    tokenizer: Tokenizer
    sha256: str


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that a training reads, in memory.

    Args:
        args: what was asked for.
        chosen: the preset, with the backbone that was asked for.
        recipe: its recipe, as it was asked for.
        frozen: the half that is not trained.
        data: batches as a function of the step.
        pictures: vision features of all drawings and photographs, where they are used.
        begun: the editor that training goes on from (None: a new one).
        before: that editor's own recipe.
    """

    args: argparse.Namespace
    chosen: Preset
    recipe: EditorTrainConfig
    frozen: Frozen
    data: EditingData | BenchmarkData
    pictures: Float[Array, "X P D"] | None
    begun: dict | None
    before: dict | None

    @property
    def trained_by(self) -> dict:
        """What is noted with every start, as plain values."""
        return {
            "editor_train": asdict(self.recipe),
            "edit_mixture": asdict(self.chosen.edit_mixture),
            **self.open_world,
        }

    @property
    def open_world(self) -> dict:
        """The files of free questions and the photographs, by their sha256, where there are any."""
        opened = getattr(self.data, "open", None)
        return {} if opened is None else opened.made_of

    @property
    def made_by(self) -> dict:
        """What states at the edit layer depend on beside the batches, as plain values."""
        return {
            "edit_layer": self.chosen.backbone.edit_layer,
            "int8": self.args.int8,
            "bf16": self.args.bf16,
            "backbone_sha256": self.frozen.sha256,
            "dataset": self.chosen.dataset.name,
        }


def prepared(args: argparse.Namespace, chosen: Preset, recipe: EditorTrainConfig) -> Run:
    """Read what `args` name."""
    begun, before = load_weights(args.start_from / "editor") if args.start_from else (None, None)
    frozen = _frozen(args, chosen.backbone)
    data = _data(args, chosen, recipe, frozen.tokenizer)
    pictures = None
    if not is_public(chosen) and (args.mesh is None or starts_on_drawings(recipe)):
        pictures = picture_features(frozen.backbone, frozen.weights, data.pictures())
    return Run(args, chosen, recipe, frozen, data, pictures, begun, before)


def _frozen(args: argparse.Namespace, cfg: BackboneConfig) -> Frozen:
    """The model folder's backbone, in the precision that was asked for, and tokenizer."""
    folder = args.model or model_folder(args.config)
    weights, made = load_backbone(folder)
    weights = split_at(weights, cfg.edit_layer)
    if args.int8:
        weights = jax.jit(quantise, donate_argnums=0)(weights)
    used = jax.jit(halve)(weights) if args.bf16 else weights
    tokenizer = load_tokenizer(folder / "tokenizer.json", cfg.pad_id, cfg.bos_id, cfg.eos_id)
    return Frozen(Backbone(cfg), weights, used, tokenizer, made["sha256"])


def _data(
    args: argparse.Namespace, chosen: Preset, recipe: EditorTrainConfig, tokenizer: Tokenizer
) -> EditingData | BenchmarkData:
    """Batches of MojiEdit's drawings, or of a public benchmark's training rows."""
    cfg, dataset = chosen.backbone, chosen.dataset
    if not is_public(chosen):
        mixture = chosen.edit_mixture
        return EditingData(tokenizer, cfg, recipe, mixture, dataset.budget, open_world(args))
    records = load_benchmark(
        dataset.name, "train", manual_dir=args.manual_dir, allow_missing=args.allow_missing
    )
    return BenchmarkData(tokenizer, cfg, recipe, records[:], PROMPTS[dataset.name])


def started(run: Run) -> TrainState:
    """The state that training starts with; a checkpoint that is there replaces its values."""
    recipe = run.recipe
    key = jax.random.key(recipe.seed)
    state = init_state(run.frozen.backbone, run.chosen.editor, recipe, key)
    if saved_step(run.args.out):
        return state
    params = state.params if run.begun is None else run.begun
    if run.begun is None and recipe.gate_gain is not None:
        params = _with_fitted_generators(run, params)
    if recipe.start_false_hits is not None and not is_public(run.chosen):
        params = _with_image_start(run, params)
    return replace(state, params=params)


def _with_fitted_generators(run: Run, params: dict) -> dict:
    """Editor weights whose generators start from a fit to training's edits."""
    cfg, recipe, frozen = run.chosen.editor, run.recipe, run.frozen
    generator_head_width(cfg)  # refused now rather than after the fit
    batches_n = recipe.fit.batches_n
    edits = edits_of(frozen.backbone, frozen.used, run.pictures, run.data, cfg.norm_eps, batches_n)
    if recipe.standardise:
        params, edits = start_norms(params, edits)
    looks, gates, loss = fit(edits, cfg.rank, recipe.fit, recipe.seed)
    print(f"generators start fitted: losses {loss[0]:.3f} (looks), {loss[1]:.3f} (and gates)")
    return start_generators(cfg, params, looks, gates, recipe.gate_gain)


def _with_image_start(run: Run, params: dict) -> dict:
    """Editor weights whose image routing compares the drawings' mean states."""
    cfg, recipe, frozen = run.chosen.editor, run.recipe, run.frozen
    drawings = run.pictures[: run.data.drawings_n]  # both of every subject, which are compared
    images = mean_images(frozen.backbone, frozen.used, drawings, cfg.norm_eps)
    share = recipe.start_false_hits / recipe.routing_repository_n
    return start_images(cfg, params, images, share)
