"""Training an open model's editor on records, without the command line."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp

from liveedit_jax.config import EditorTrainConfig
from liveedit_jax.data.annotations import PROMPTS
from liveedit_jax.data.benchmark_training import BenchmarkData
from liveedit_jax.data.prompts import PLAIN_PROMPTS
from liveedit_jax.data.records import Record
from liveedit_jax.model_io.weights import round_weights, save_weights, sha256_of
from liveedit_jax.session.model import OpenModel, open_model
from liveedit_jax.training.editor import init_state
from liveedit_jax.training.loop import train
from liveedit_jax.training.one_device import feed_images, on_one_device

FINE_TUNING_RATE = 0.1  # of the recipe's rate, where training goes on from a trained editor


def train_editor(
    model: OpenModel | str | Path,
    records: Iterable[Record],
    steps_n: int | None = None,
    *,
    recipe: EditorTrainConfig | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    save_to: str | Path | None = None,
) -> OpenModel:
    """Train LiveEdit's editor on a benchmark's records (section 4 of the paper).

        records = list(liveedit_jax.data.load_benchmark("evqa", "train", manual_dir="evqa"))
        model = liveedit_jax.train_editor("tiny", records, steps_n=20)

    A sample is a record: its edit, both generalities and its image-locality probe; records are
    shuffled every epoch. Training goes on from the model's editor, or starts from random weights
    where it has none; the model that goes in stays as it is.

    Args:
        model: a model of `open_model`, a preset's name or a model folder.
        records: of `liveedit_jax.data.edit_stream` or `load_benchmark`, from one of them.
        steps_n: optimiser steps (None: the recipe's).
        recipe: how it is trained; None: the preset's, without the starts that need MojiEdit's
            drawings, with batches that the records fill, and at a tenth of its rate where it goes
            on from a trained editor.
        seed: of the order of the records and of what training draws.
        out: a run folder with checkpoints and logs, from which a stopped run goes on. None:
            nothing is kept.
        save_to: a model folder to write, which may be the model's own. None: nothing is written.

    Returns:
        The model with the trained editor, rounded as it is stored.

    Raises:
        FileNotFoundError: no such model.
        ValueError: too few records, records of several benchmarks, a damaged model or picture, or
            `save_to` is another folder that exists.
    """
    opened = model if isinstance(model, OpenModel) else open_model(model)
    parts, stream = opened.parts, list(records)
    if len(stream) < 2:
        raise ValueError(f"{len(stream)} records: training compares records, give 2 or more")
    names = {record.dataset for record in stream}
    if len(names) > 1 or not names <= {None, *PROMPTS}:
        named = ", ".join(sorted(map(str, names)))
        raise ValueError(f"records of {named}: give those of one of {', '.join(PROMPTS)}")
    dataset = names.pop()
    folder = parts.folder if save_to is None else Path(save_to)
    own_folder = save_to is None or _is_same(folder, parts.folder)
    if not own_folder and folder.exists():
        raise ValueError(f"{save_to} is there already: give a new folder, or the model's own")
    trained = parts.editor is not None
    if recipe is None:
        recipe = default_recipe(parts.config.editor_train, len(stream), steps_n, trained)
    recipe = replace(recipe, seed=seed, steps_n=steps_n or recipe.steps_n)
    backbone, editor = opened.backbone, parts.config.editor
    if not trained:  # maps to directions are fitted to MojiEdit's drawings
        editor = replace(editor, image_direction_n=None, text_direction_n=None)
    prompts = PLAIN_PROMPTS if dataset is None else PROMPTS[dataset]
    data = BenchmarkData(parts.tokenizer, backbone.cfg, recipe, stream, prompts)
    step, batch_at = on_one_device(
        backbone, editor, recipe, opened.weights, data, feed_images(data)
    )
    state = init_state(backbone, editor, recipe, jax.random.key(seed))
    if trained:
        state = state.replace(params=jax.tree.map(jnp.copy, parts.editor))
    if out is None:
        with tempfile.TemporaryDirectory(prefix="liveedit-") as run:
            state, _ = train(step, state, batch_at, recipe.steps_n, run)
    else:
        state, _ = train(step, state, batch_at, recipe.steps_n, out)
    stored = round_weights(state.params)
    made_by = {
        "config": opened.parts.config_name,
        "steps": recipe.steps_n,
        "editor": asdict(editor),
        "editor_train": asdict(recipe),
        "edit_layer": backbone.cfg.edit_layer,
        "backbone_sha256": parts.backbone_sha256,
        "dataset": dataset,
        "records": len(stream),
        "started_from": parts.editor_sha256,
    }
    if save_to is not None:
        _save(parts.folder, folder, stored, made_by)
    weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), stored)
    again = replace(
        parts,
        editor=weights,
        editor_sha256=sha256_of(stored),
        folder=folder,
    )
    name = opened.name if own_folder else str(save_to)
    return OpenModel(again, name, opened.chat is not None, is_saved=save_to is not None)


def default_recipe(
    recipe: EditorTrainConfig, records_n: int, steps_n: int | None, trained: bool
) -> EditorTrainConfig:
    """Return a preset's recipe for so many records.

    Args:
        recipe: the preset's.
        records_n: how many records there are; no batch has more.
        steps_n: optimiser steps; None: the recipe's.
        trained: whether training goes on from a trained editor.
    """
    steps_n = steps_n or recipe.steps_n
    routing_n = min(recipe.routing_n or recipe.batch_n, records_n)
    return replace(
        recipe,
        steps_n=steps_n,
        warmup_steps=min(recipe.warmup_steps, steps_n // 2),
        batch_n=min(recipe.batch_n, routing_n),
        routing_n=routing_n,
        learning_rate=recipe.learning_rate * (FINE_TUNING_RATE if trained else 1.0),
        answers_n=None,
        gate_gain=None,
        standardise=False,
        start_false_hits=None,
    )


def _is_same(folder: Path, other: Path) -> bool:
    return folder.exists() and folder.samefile(other)


def _save(source: Path, folder: Path, editor: dict, recipe: dict) -> None:
    """Write a model folder: the backbone and tokenizer of `source` beside an editor."""
    if _is_same(folder, source):
        save_weights(folder / "editor", editor, recipe)
        return
    fresh = folder.with_name(folder.name + ".new")  # so that a whole folder appears, or none
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shutil.copytree(source / "backbone", fresh / "backbone")
    for file in source.glob("tokenizer*.json"):
        shutil.copyfile(file, fresh / file.name)
    save_weights(fresh / "editor", editor, recipe)
    fresh.rename(folder)
