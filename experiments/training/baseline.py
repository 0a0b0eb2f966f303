"""Training one of the editors that LiveEdit is compared with, on the same entities."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import partial

import jax
import jax.numpy as jnp

from experiments.training.arguments import seconds_left, to_ship
from experiments.training.dev_figures import DEV_N, DEV_SEED, dev_figures
from experiments.training.editor_arguments import open_world
from liveedit_jax import editors as compiled
from liveedit_jax.backbones import Backbone
from liveedit_jax.baselines.table import get_baseline
from liveedit_jax.baselines.trained import LessonData, init_state, train_step
from liveedit_jax.config import Preset
from liveedit_jax.data.editing import EditingData
from liveedit_jax.editors import split_at_layer
from liveedit_jax.evaluation.run import git_commit
from liveedit_jax.evaluation.subject import ModelParts
from liveedit_jax.model_io.model import load_backbone, model_folder, open_tokenizer
from liveedit_jax.model_io.weights import save_weights
from liveedit_jax.training.loop import train
from liveedit_jax.training.optimizers import TrainState

SEEN_N = 100  # pictures at once


def train_baseline(args: argparse.Namespace, chosen: Preset) -> None:
    """Train, or go on; ship into MODEL/baselines/NAME where that is asked for.

    Args:
        args: of `train_editor`; those that are LiveEdit's alone are not read.
        chosen: the preset.
    """
    begin = time.time()
    editor = get_baseline(args.editor, args.config)
    recipe = replace(
        editor.recipe,
        seed=args.seed,
        steps_n=args.steps or editor.recipe.steps_n,
        batch_n=args.batch or editor.recipe.batch_n,
        learning_rate=args.learning_rate or editor.recipe.learning_rate,
    )
    editor = replace(editor, recipe=recipe)
    folder = args.model or model_folder(args.config)
    whole, made = load_backbone(folder, chosen)
    backbone, weights = split_at_layer(Backbone(chosen.backbone), whole, editor.layer)
    cfg = chosen.backbone
    tokenizer, _ = open_tokenizer(folder, cfg, made)
    drawn = replace(
        chosen.editor_train, batch_n=recipe.batch_n, routing_n=None, accumulate_n=1, seed=args.seed
    )
    opened = open_world(args)
    data = EditingData(tokenizer, cfg, drawn, chosen.edit_mixture, chosen.dataset.budget, opened)

    def parts_of(state: TrainState) -> ModelParts:
        return ModelParts(Backbone(cfg), whole, tokenizer, editor, state.params)

    params = {"backbone": weights, "editor": None}
    shown = data.pictures()
    parts = [shown[i : i + SEEN_N] for i in range(0, len(shown), SEEN_N)]
    pictures = jnp.concatenate(
        [compiled.encode_image(editor, backbone, params, part) for part in parts]
    )
    measure = dev_figures(parts_of, cfg.vision.image_size)
    state, step = train(
        partial(train_step, editor, backbone, weights, pictures),
        init_state(editor, backbone, weights),
        LessonData(data).batch_at,
        recipe.steps_n,
        args.out,
        save_every=args.save_every,
        stop_after_s=seconds_left(args, begin),
        profile=args.profile,
    )
    if to_ship(args, step, recipe.steps_n, begin):
        out = args.ship / "baselines" / args.editor
        recipe_of = {
            "config": args.config,
            "editor": args.editor,
            "settings": asdict(editor),
            "steps": step,
            "backbone_sha256": made["sha256"],
            "commit": git_commit(),
            **({} if opened is None else opened.provenance),
            "seconds": round(time.time() - begin),
            "dev": {"seed": DEV_SEED, "edits": DEV_N, **measure(state)},
        }
        digest = save_weights(out, jax.device_get(state.params), recipe_of)
        print(json.dumps(recipe_of, indent=1), f"\nwrote {out} sha256 {digest}")
