"""A training of the editor before its first step: what it reads, and how it steps."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import jax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float

from experiments.training.editor_arguments import is_public, open_world, starts_on_drawings
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.backbones.linear import round_kernels
from liveedit_jax.backbones.quantise import quantise
from liveedit_jax.config import EditorTrainConfig, Preset
from liveedit_jax.data.annotations import PROMPTS
from liveedit_jax.data.benchmark_training import BenchmarkData
from liveedit_jax.data.benchmarks import load_benchmark
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.missing import select_readable
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.model_io.model import load_backbone, model_folder, open_tokenizer
from liveedit_jax.model_io.weights import load_weights
from liveedit_jax.scaling.mesh import make_mesh
from liveedit_jax.scaling.steps import Pod
from liveedit_jax.scaling.training import set_up_on_mesh
from liveedit_jax.training import start
from liveedit_jax.training.editor import init_state, picture_features
from liveedit_jax.training.loop import saved_step
from liveedit_jax.training.one_device import feed_features, feed_images, on_one_device
from liveedit_jax.training.optimizers import TrainState
from liveedit_jax.training.states import StateCache

DRAWN = ("seed", "batch_n", "routing_n", "accumulate_n", "answers_n")  # what batches depend on

# What `train` takes first: a step, the state it starts from, and from a step to its batch.
Stepping = tuple[Callable, TrainState, Callable[[int], Any]]


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
        """List what is noted with every start, as plain values."""
        return {
            "editor_train": asdict(self.recipe),
            "edit_mixture": asdict(self.chosen.edit_mixture),
            **self.open_world,
        }

    @property
    def open_world(self) -> dict:
        """The files of free questions and the photographs, by their sha256, where there are any."""
        opened = getattr(self.data, "open", None)
        return {} if opened is None else opened.provenance

    @property
    def made_by(self) -> dict:
        """List what states at the edit layer depend on beside the batches, as plain values."""
        return {
            "edit_layer": self.chosen.backbone.edit_layer,
            "int8": self.args.int8,
            "bf16": self.args.bf16,
            "backbone_sha256": self.frozen.sha256,
            "dataset": self.chosen.dataset.name,
        }


def prepare(args: argparse.Namespace, chosen: Preset, recipe: EditorTrainConfig) -> Run:
    """Read what `args` name."""
    begun, before = load_weights(args.start_from / "editor") if args.start_from else (None, None)
    frozen = _frozen(args, chosen)
    data = _data(args, chosen, recipe, frozen.tokenizer)
    pictures = None
    if not is_public(chosen) and (args.mesh is None or starts_on_drawings(chosen.editor, recipe)):
        pictures = picture_features(frozen.backbone, frozen.weights, data.pictures())
    return Run(args, chosen, recipe, frozen, data, pictures, begun, before)


def _frozen(args: argparse.Namespace, chosen: Preset) -> Frozen:
    """The model folder's backbone, in the precision that was asked for, and tokenizer."""
    folder, cfg = args.model or model_folder(args.config), chosen.backbone
    weights, made = load_backbone(folder, chosen)
    weights = split_at(weights, cfg.edit_layer)
    if args.int8:
        weights = jax.jit(quantise, donate_argnums=0)(weights)
    used = jax.jit(round_kernels)(weights) if args.bf16 else weights
    tokenizer, _ = open_tokenizer(folder, cfg, made)
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
    records = select_readable(records[:], cfg, args.allow_missing)
    return BenchmarkData(tokenizer, cfg, recipe, records, PROMPTS[dataset.name])


def start_state(run: Run) -> TrainState:
    """Return the state before the first step; a checkpoint that is there replaces its values."""
    recipe, frozen = run.recipe, run.frozen
    state = init_state(frozen.backbone, run.chosen.editor, recipe, jax.random.key(recipe.seed))
    if saved_step(run.args.out):
        return state
    params = state.params if run.begun is None else run.begun
    if not is_public(run.chosen):
        seen = start.Frozen(
            backbone=frozen.backbone,
            weights=frozen.used,
            cfg=run.chosen.editor,
            recipe=recipe,
            data=run.data,
            pictures=run.pictures,
        )
        steps = start.start_steps(run.chosen.editor, recipe, trained=run.begun is not None)
        params = start.start_params(seen, params, steps)
    return replace(state, params=params)


def stepping(run: Run) -> Stepping:
    """Return how the run steps: on a mesh or on one device, from states on disk or without."""
    recipe, frozen, data = run.recipe, run.frozen, run.data
    finished = saved_step(run.args.out) >= recipe.steps_n  # needs no states to be shipped
    from_disk = run.args.states is not None and not finished
    if run.args.mesh is not None:
        pod = Pod(make_mesh(run.args.mesh), run.chosen)
        cache = partial(state_cache, run) if from_disk else None
        return set_up_on_mesh(pod, recipe, frozen.used, start_state(run), data, cache)
    feed = feed_images(data) if run.pictures is None else feed_features(run.pictures)
    cache = state_cache(run) if from_disk else None
    state, editor = start_state(run), run.chosen.editor
    step, batch_at = on_one_device(frozen.backbone, editor, recipe, frozen.used, data, feed, cache)
    return step, state, batch_at


def state_cache(run: Run, place: NamedSharding | None = None) -> StateCache:
    """Open the folder of states; `place` is where steps on a mesh have them."""
    args, recipe = run.args, run.trained_by["editor_train"]
    about = {"edit_mixture": run.trained_by["edit_mixture"], **run.open_world, **run.made_by}
    about |= {name: recipe[name] for name in DRAWN}
    about |= {"mesh": args.mesh and asdict(args.mesh), "processes": jax.process_count()}
    return StateCache(args.states, args.batches, about, place)
