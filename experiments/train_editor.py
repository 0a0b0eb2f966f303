"""Train LiveEdit's extractors and generators on MojiEdit's editor-train entities.

    python -m experiments.train_editor --config tiny --out runs/editor [--stop-after MINUTES]
    python -m experiments.train_editor --config tiny --out runs/editor --ship checkpoints/tiny

The backbone is read from the model folder (`--model`, default: the preset's shipped one). Killed or
stopped runs resume where they were. Every 1,000 steps the dev split is measured at 100 edits.
`--start-from MODEL` goes on from a model's editor with a fresh optimiser: its generators are not
fitted again, its image routing starts anew where the recipe says how.

`--states DIR --batches N` trains on N batches over and over. Their states at the edit layer come
first and are kept in DIR: tower and lower layers run once for each.

`--dataset evqa --manual-dir FOLDER --mesh data=1` trains on a public benchmark's own files; the
same command with `--ship MODEL` instead of `--mesh` then writes the editor.

`--mesh fsdp=8` trains on a mesh of all devices (docs/pods.md); with several processes, run the same
command in each. There, vision features are computed in the step, and dev is not measured.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import jax
from jax.sharding import NamedSharding

from experiments.arguments import training_parser
from liveedit_jax.backbone_config import Keep
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.backbones.linear import halve
from liveedit_jax.backbones.quantise import quantise
from liveedit_jax.config import as_dict
from liveedit_jax.data.benchmark_training import BenchmarkData
from liveedit_jax.data.benchmarks import load_benchmark
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.prompts import PROMPTS
from liveedit_jax.data.tokenizer import load_tokenizer
from liveedit_jax.evaluation.cases import stream_cases
from liveedit_jax.evaluation.lifelong import Parts
from liveedit_jax.evaluation.quick import quick_figures
from liveedit_jax.presets import DATASETS, preset
from liveedit_jax.scaling.mesh import axes_of, make_mesh
from liveedit_jax.scaling.processes import start as start_processes
from liveedit_jax.scaling.steps import Pod
from liveedit_jax.scaling.training import on_mesh
from liveedit_jax.training.addressing import (
    edits_of,
    fit,
    generator_head_width,
    start_generators,
)
from liveedit_jax.training.checkpoint import load_backbone, model_folder
from liveedit_jax.training.editor import (
    editor_step,
    editor_step_from_states,
    init_state,
    picture_features,
    states_of_step,
)
from liveedit_jax.training.image_start import mean_images, start_images
from liveedit_jax.training.loop import record_start, saved_step, train
from liveedit_jax.training.states import StateCache
from liveedit_jax.training.statistics import start_norms
from liveedit_jax.training.weights import load_weights, save_weights

DEV_SEED, DEV_N = 0, 100
DRAWN = ("seed", "batch_n", "routing_n", "accumulate_n", "answers_n")  # what batches depend on


def main() -> None:
    parser = training_parser(__doc__, "runs/editor", "the editor")
    parser.add_argument("--model", type=Path, help="folder with backbone/ and tokenizer.json")
    parser.add_argument("--start-from", type=Path, help="model folder whose editor to go on from")
    parser.add_argument("--edit-layer", type=int, help="decoder layer (the preset's)")
    parser.add_argument("--batch", type=int, help="samples a batch (the recipe's)")
    parser.add_argument("--accumulate", type=int, help="batches a step (the recipe's)")
    parser.add_argument("--keep", choices=[k.value for k in Keep], help="of layers, for gradients")
    parser.add_argument("--int8", action="store_true", help="frozen kernels in 8 bits")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--dataset", choices=sorted(DATASETS), help="what to train on (preset's)")
    parser.add_argument("--manual-dir", type=Path, help="a public benchmark's own files")
    parser.add_argument("--allow-missing", action="store_true", help="leave out rows without them")
    parser.add_argument("--states", type=Path, help="folder for lower states, made once a batch")
    parser.add_argument("--batches", type=int, default=1000, help="how many, with --states")
    parser.add_argument("--mesh", type=axes_of, help="axes, as data=2,fsdp=4,tensor=2")
    parser.add_argument("--coordinator", help="HOST:PORT of process 0, outside pods and Slurm")
    parser.add_argument("--processes", type=int, help="how many there are, with --coordinator")
    parser.add_argument("--process", type=int, help="which one this is, with --coordinator")
    args = parser.parse_args()
    start_processes(args.coordinator, args.processes, args.process)
    if args.mesh and args.ship:
        parser.error("--mesh or --ship: ship from one process, with the same --out")
    if args.int8 and args.bf16:
        parser.error("--int8 or --bf16: frozen kernels are either")

    chosen = preset(args.config, args.dataset)
    public = chosen.dataset.name != "mojiedit"
    if public and (args.manual_dir is None or (args.mesh is None and args.ship is None)):
        parser.error(f"{chosen.dataset.name}: give --manual-dir, and --mesh (data=1: one device)")
    if args.config.endswith(".py") and args.model is None:
        parser.error("a config file needs --model FOLDER")
    if public and chosen.editor_train.gate_gain is not None and args.start_from is None:
        parser.error("fitted starts are made on mojiedit: give --start-from, or another --config")
    if args.edit_layer is not None:
        chosen = replace(chosen, backbone=replace(chosen.backbone, edit_layer=args.edit_layer))
    if args.keep is not None:
        chosen = replace(chosen, backbone=replace(chosen.backbone, keep=Keep(args.keep)))
    steps_n = args.steps or chosen.editor_train.steps_n
    recipe = replace(
        chosen.editor_train,
        seed=args.seed,
        steps_n=steps_n,
        warmup_steps=min(chosen.editor_train.warmup_steps, steps_n // 2),  # of short runs
        learning_rate=args.learning_rate or chosen.editor_train.learning_rate,
        batch_n=args.batch or chosen.editor_train.batch_n,
        accumulate_n=args.accumulate or chosen.editor_train.accumulate_n,
    )
    if public and args.mesh is None and saved_step(args.out) < steps_n:
        parser.error(f"{args.out} is at step {saved_step(args.out)} of {steps_n}: train it first")
    begun, before = load_weights(args.start_from / "editor") if args.start_from else (None, None)
    folder = args.model or model_folder(args.config)
    weights, made = load_backbone(folder)
    weights = split_at(weights, chosen.backbone.edit_layer)
    if args.int8:
        weights = jax.jit(quantise, donate_argnums=0)(weights)
    used = jax.jit(halve)(weights) if args.bf16 else weights
    cfg = chosen.backbone
    tokenizer = load_tokenizer(folder / "tokenizer.json", cfg.pad_id, cfg.bos_id, cfg.eos_id)
    backbone = Backbone(chosen.backbone)
    if public:
        name = chosen.dataset.name
        records = load_benchmark(
            name, "train", manual_dir=args.manual_dir, allow_missing=args.allow_missing
        )
        data = BenchmarkData(tokenizer, cfg, recipe, records[:], PROMPTS[name])
    else:
        budget = chosen.dataset.budget
        data = EditingData(tokenizer, cfg, recipe, chosen.edit_mixture, budget)
    table_used = not public and (args.mesh is None or recipe.gate_gain is not None)
    pictures = picture_features(backbone, weights, data.pictures()) if table_used else None
    side = chosen.backbone.vision.image_size
    dev = cache(partial(stream_cases, "dev", DEV_SEED, DEV_N, side))
    known: dict = {}

    def evaluate(state) -> dict:
        parts = Parts(backbone, chosen.editor, weights, state.params, tokenizer)
        return {f"dev/{k}": v for k, v in quick_figures(parts, dev(), known).items()}

    def start():
        state = init_state(backbone, chosen.editor, recipe, jax.random.key(recipe.seed))
        if saved_step(args.out):  # then weights are restored
            return state
        params = state.params if begun is None else begun
        if begun is None and recipe.gate_gain is not None:
            params = fitted(params)
        if recipe.start_false_hits is not None:
            images = mean_images(backbone, used, pictures, chosen.editor.norm_eps)
            share = recipe.start_false_hits / recipe.routing_repository_n
            params = start_images(chosen.editor, params, images, share)
        return replace(state, params=params)

    def fitted(params: dict) -> dict:
        generator_head_width(chosen.editor)  # refused now rather than after the fit
        eps, fitting = chosen.editor.norm_eps, recipe.fit
        edits = edits_of(backbone, used, pictures, data, eps, fitting.batches_n)
        if recipe.standardise:
            params, edits = start_norms(params, edits)
        looks, gates, loss = fit(edits, chosen.editor.rank, fitting, recipe.seed)
        print(f"generators start fitted: losses {loss[0]:.3f} (looks), {loss[1]:.3f} (and gates)")
        return start_generators(chosen.editor, params, looks, gates, recipe.gate_gain)

    begin = time.time()
    run = {"editor_train": asdict(recipe), "edit_mixture": asdict(chosen.edit_mixture)}
    starts = record_start(args.out, run)
    made_by = {"edit_layer": cfg.edit_layer, "int8": args.int8, "bf16": args.bf16}
    made_by |= {"backbone_sha256": made["sha256"], "dataset": chosen.dataset.name}
    run |= made_by
    if jax.process_index() == 0:
        (args.out / "config.json").write_text(json.dumps(as_dict(chosen) | run))

    def on_one_device(state, batch):
        return editor_step(backbone, chosen.editor, recipe, used, pictures, state, batch)

    def from_states(state, batch):
        rows, hidden = batch
        return editor_step_from_states(
            backbone, chosen.editor, recipe, used, hidden, state, rows
        )  # fmt: skip

    def states(place: NamedSharding | None = None) -> StateCache:
        about = {name: run[name] for name in ("edit_mixture", *made_by)}
        about |= {name: run["editor_train"][name] for name in DRAWN}
        about |= {"mesh": args.mesh and asdict(args.mesh), "processes": jax.process_count()}
        return StateCache(args.states, args.batches, about, place)

    if args.mesh is not None:
        pod = Pod(make_mesh(args.mesh), chosen)
        parts = on_mesh(pod, recipe, used, start(), data, args.states and states)
    elif args.states is not None:
        states_of = partial(states_of_step, backbone, recipe, used, pictures)
        parts = from_states, start(), states().reading(data.batch_at, states_of)
    else:
        parts = on_one_device, start(), data.batch_at
    state, step = train(
        *parts,
        recipe.steps_n,
        args.out,
        save_every=args.save_every,
        evaluate=evaluate if args.mesh is None and not public else None,
        evaluate_every=1000,
        stop_after_s=args.stop_after and 60 * args.stop_after,
        profile=args.profile,
    )
    print(f"step {step} of {recipe.steps_n} after {time.time() - begin:.0f} s of this run")
    if args.ship:
        figures = {} if public else evaluate(state)
        recipe_of = {
            "config": args.config,
            "steps": step,
            "editor": asdict(chosen.editor),
            **run,
            "started_from": before,
            "starts": starts,  # more than one where a resumed run went on with another recipe
            "dev": {"seed": DEV_SEED, "edits": DEV_N, **figures} if figures else None,
        }
        digest = save_weights(args.ship / "editor", state.params, recipe_of)
        print(json.dumps(figures, indent=1), f"\nwrote {args.ship} sha256 {digest}")


if __name__ == "__main__":
    main()
