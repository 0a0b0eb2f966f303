"""Train LiveEdit's extractors and generators, or another editor, on MojiEdit.

    python -m experiments.train_editor --config tiny --out runs/editor [--stop-after MINUTES]
    python -m experiments.train_editor --config tiny --out runs/editor --ship checkpoints/tiny
    python -m experiments.train_editor --editor mend --out runs/mend --ship checkpoints/tiny

The backbone is read from the model folder (`--model`, default: the preset's shipped one). Killed or
stopped runs resume where they were. Every 1,000 steps the dev split is measured at 100 edits.
`--start-from MODEL` goes on from a model's editor with a fresh optimiser: its generators are not
fitted again, its image routing starts anew where the recipe says how (on MojiEdit).

`--states DIR --batches N` trains on N batches over and over. Their states at the edit layer come
first and are kept in DIR: tower and lower layers run once for each.

`--dataset evqa --manual-dir FOLDER --mesh data=1` trains on a public benchmark's own files; the
same command with `--ship MODEL` instead of `--mesh` then writes the editor. It is of use beside its
backbone: MODEL is what `--model` says, or a folder with a copy of backbone/ and tokenizer.json.

`--questions vqa_train.json train.json --stamps /usr/share/tuxpaint/stamps` makes a share of the
samples free questions of these files (E-VQA's or VLKEB's) about photographs of animals and plants
(without `--stamps`: about drawings); the recipe names both by their sha256 (docs/photographs.md).

`--editor mend` (serac, lte, recipe) trains an editor to compare with, on the same entities, into
MODEL/baselines/mend (docs/baselines.md).

`--mesh fsdp=8` trains on a mesh of all devices (docs/pods.md); with several processes, run the same
command in each. There, vision features are computed in the step, and dev is not measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
from jax.sharding import NamedSharding

from experiments.training.arguments import to_ship
from experiments.training.baseline import train_baseline
from experiments.training.dev_figures import DEV_N, DEV_SEED, dev_figures
from experiments.training.editor import Run, prepared, started
from experiments.training.editor_arguments import is_public, parsed
from liveedit_jax.config import as_dict
from liveedit_jax.editor.as_editor import LiveEdit
from liveedit_jax.evaluation.subject import Parts
from liveedit_jax.model_io.weights import save_weights
from liveedit_jax.scaling.mesh import make_mesh
from liveedit_jax.scaling.processes import start as start_processes
from liveedit_jax.scaling.steps import Pod
from liveedit_jax.scaling.training import on_mesh
from liveedit_jax.training.editor import editor_step, editor_step_from_states, states_of_step
from liveedit_jax.training.loop import record_start, saved_step, train
from liveedit_jax.training.optimizers import TrainState
from liveedit_jax.training.states import StateCache

DRAWN = ("seed", "batch_n", "routing_n", "accumulate_n", "answers_n")  # what batches depend on

# What `train` takes first: a step, the state it starts from, and from a step to its batch.
Stepping = tuple[Callable, TrainState, Callable[[int], Any]]


def main() -> None:
    args, chosen, recipe = parsed(__doc__)
    if args.editor != "liveedit":
        train_baseline(args, chosen)
        return
    start_processes(args.coordinator, args.processes, args.process)
    run = prepared(args, chosen, recipe)
    evaluate = None
    if not (args.mesh or is_public(chosen)):
        evaluate = dev_figures(partial(parts_of, run), chosen.backbone.vision.image_size)
    begin = time.time()
    starts = note(run)
    state, step = train(
        *stepping(run),
        recipe.steps_n,
        args.out,
        save_every=args.save_every,
        evaluate=evaluate,
        evaluate_every=1000,
        stop_after_s=args.stop_after and 60 * args.stop_after,
        profile=args.profile,
    )
    if to_ship(args, step, recipe.steps_n, begin):
        ship(run, state, step, starts, evaluate(state) if evaluate else {})


def parts_of(run: Run, state: TrainState) -> Parts:
    """The model with its editor as training has it."""
    frozen, editor = run.frozen, LiveEdit(run.chosen.editor)
    return Parts(frozen.backbone, frozen.weights, frozen.tokenizer, editor, state.params)


def note(run: Run) -> list[dict]:
    """Write into its folder what the run is; returns its starts (`record_start`)."""
    starts = record_start(run.args.out, run.trained_by)
    if jax.process_index() == 0:
        config = as_dict(run.chosen) | run.trained_by | run.made_by
        (run.args.out / "config.json").write_text(json.dumps(config))
    return starts


def stepping(run: Run) -> Stepping:
    """How the run steps: on a mesh, from states on disk, or on one device."""
    if run.args.mesh is not None:
        pod = Pod(make_mesh(run.args.mesh), run.chosen)
        states = run.args.states and partial(state_cache, run)
        return on_mesh(pod, run.recipe, run.frozen.used, started(run), run.data, states)
    finished = saved_step(run.args.out) >= run.recipe.steps_n  # needs no states to be shipped
    return on_one_device(run) if run.args.states is None or finished else from_states(run)


def on_one_device(run: Run) -> Stepping:
    """Steps from the vision features of all drawings."""
    frozen, editor = run.frozen, run.chosen.editor
    step = partial(editor_step, frozen.backbone, editor, run.recipe, frozen.used, run.pictures)
    return step, started(run), run.data.batch_at


def from_states(run: Run) -> Stepping:
    """Steps from states at the edit layer, read from disk."""
    backbone, used = run.frozen.backbone, run.frozen.used
    editor, recipe = run.chosen.editor, run.recipe

    def step(state: TrainState, batch: tuple) -> tuple[TrainState, dict]:
        rows, hidden = batch
        return editor_step_from_states(backbone, editor, recipe, used, hidden, state, rows)

    states_of = partial(states_of_step, backbone, recipe, used, run.pictures)
    return step, started(run), state_cache(run).reading(run.data.batch_at, states_of)


def state_cache(run: Run, place: NamedSharding | None = None) -> StateCache:
    """The folder of states; `place` is where steps on a mesh have them."""
    args, recipe = run.args, run.trained_by["editor_train"]
    about = {"edit_mixture": run.trained_by["edit_mixture"], **run.open_world, **run.made_by}
    about |= {name: recipe[name] for name in DRAWN}
    about |= {"mesh": args.mesh and asdict(args.mesh), "processes": jax.process_count()}
    return StateCache(args.states, args.batches, about, place)


def ship(run: Run, state: TrainState, step: int, starts: list[dict], figures: dict) -> None:
    """Write the editor into its model folder, with its recipe.

    Args:
        run: the run.
        state: at its end.
        step: the step that is the end.
        starts: of the run; several where it was resumed with another recipe.
        figures: of the dev split, where they are measured.
    """
    recipe = {
        "config": run.args.config,
        "steps": step,
        "editor": asdict(run.chosen.editor),
        **run.trained_by,
        **run.made_by,
        "started_from": run.before,
        "starts": starts,
        "dev": {"seed": DEV_SEED, "edits": DEV_N, **figures} if figures else None,
    }
    digest = save_weights(run.args.ship / "editor", state.params, recipe)
    print(json.dumps(figures, indent=1), f"\nwrote {run.args.ship} sha256 {digest}")


if __name__ == "__main__":
    main()
