"""The bridge of a model that is frozen but for it (`experiments.pretrain --config smol`)."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training.arguments import seconds_left, to_ship
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.linear import round_kernels
from liveedit_jax.backbones.registry import bridge
from liveedit_jax.config import Preset, as_dict
from liveedit_jax.data.facts import SOURCES, entities
from liveedit_jax.evaluation.knowledge import fact_accuracy, other_drawing_recall
from liveedit_jax.evaluation.questions import drawings
from liveedit_jax.evaluation.run import git_commit
from liveedit_jax.model_io.frozen import load_smol_parts, load_smol_tokenizer
from liveedit_jax.model_io.model import save_backbone
from liveedit_jax.model_io.weights import load_weights
from liveedit_jax.training.bridge import BridgeData, bridge_step, init_state, tower_states
from liveedit_jax.training.image_start import mean_images
from liveedit_jax.training.loop import record_start, train

UNSEEN = ("dev", "probe")  # entities that no editor is trained or judged on: drawings compared
MEASURED = 24  # every so manyth entity is measured: a forward pass takes seconds


def run(args: argparse.Namespace, chosen: Preset) -> None:
    """Train (or go on training) and, with --ship, write the bridge with its figures."""
    begin = time.time()
    cfg = replace(
        chosen.bridge_train,
        data=replace(chosen.bridge_train.data, seed=args.seed),
        steps_n=args.steps or chosen.bridge_train.steps_n,
        learning_rate=args.learning_rate or chosen.bridge_train.learning_rate,
    )
    backbone, tokenizer = Backbone(chosen.backbone), load_smol_tokenizer(chosen.backbone)
    frozen, sha256 = load_smol_parts(chosen.backbone)
    args.out.mkdir(parents=True, exist_ok=True)
    stored = args.out / "tower_states.npy"
    if not stored.exists():
        np.save(stored, tower_states(backbone, frozen))
    states = jnp.asarray(np.load(stored))
    used = jax.jit(round_kernels)(frozen) if args.bf16 else frozen
    run_of = {"bridge_train": asdict(cfg), "bf16": args.bf16}
    starts = record_start(args.out, run_of)
    state = init_state(backbone, cfg, jax.random.key(args.seed))
    before = None
    if args.start_from:
        params, before = load_weights(args.start_from / "backbone")
        state = replace(state, params=params["projector"])
    state, step = train(
        lambda state, batch: bridge_step(backbone, cfg, used, states, state, batch),
        state,
        BridgeData(tokenizer, backbone, cfg).batch_at,
        cfg.steps_n,
        args.out,
        save_every=50,
        stop_after_s=seconds_left(args, begin),
        profile=args.profile,
    )
    if not to_ship(args, step, cfg.steps_n, begin):
        return
    params, some = frozen | {"projector": state.params}, entities()[::MEASURED]
    figures = {
        name: fact_accuracy(backbone, params, tokenizer, shown, evaluation, 8, 640)
        for name, shown, evaluation in (
            ("training_templates", drawings(some, False), False),
            ("evaluation_templates", drawings(some, False), True),
        )
    }
    both = [
        2 * i + s
        for i, entity in enumerate(entities())
        if entity.split in UNSEEN and entity.held_out is None
        for s in range(len(SOURCES))
    ]
    read = states[jnp.asarray(both)].astype(jnp.float32)
    features = bridge(backbone.cfg).apply({"params": state.params}, read)
    images = np.asarray(mean_images(backbone, params, features, chosen.editor.norm_eps))
    found = {str(share): other_drawing_recall(images, share) for share in (1e-2, 1e-3, 3e-4)}
    recipe = {
        "config": args.config,
        "steps": step,
        "started_from": before,
        "starts": starts,
        "commit": git_commit(),
        **run_of,
        "backbone": as_dict(chosen.backbone),
        "frozen_sha256": sha256,
        "token_accuracy": figures,
        "other_drawing_found": found,
    }
    digest = save_backbone(args.ship, {"projector": state.params}, recipe, tokenizer)
    print(
        json.dumps(figures | {"other_drawing_found": found}, indent=1),
        f"\nwrote {args.ship} sha256 {digest}",
    )
