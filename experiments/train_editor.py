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

`--dataset evqa --manual-dir FOLDER` trains on a public benchmark's own files. The editor that
`--ship MODEL` writes is of use beside its backbone: MODEL is what `--model` says, or a folder with
a copy of backbone/ and tokenizer.json.

`--questions vqa_train.json train.json --stamps /usr/share/tuxpaint/stamps` makes a share of the
samples free questions of these files (E-VQA's or VLKEB's) about photographs of animals and plants
(without `--stamps`: about drawings); the recipe names both by their sha256 (docs/photographs.md).

`--editor mend` (serac, lte, recipe) trains an editor to compare with, on the same entities, into
MODEL/baselines/mend (docs/baselines.md).

`--mesh fsdp=8` trains on a mesh of all devices (docs/pods.md); with several processes, run the same
command in each. There, and on public benchmarks, vision features are computed in the step, and dev
is not measured while they train.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import partial

import jax

from experiments.training.arguments import one_line_errors, seconds_left, to_ship
from experiments.training.baseline import train_baseline
from experiments.training.dev_figures import DEV_N, DEV_SEED, dev_figures
from experiments.training.editor import Run, prepare, stepping
from experiments.training.editor_arguments import is_public, parse
from liveedit_jax.config import as_dict
from liveedit_jax.editor.as_editor import LiveEdit
from liveedit_jax.evaluation.run import git_commit
from liveedit_jax.evaluation.subject import ModelParts
from liveedit_jax.model_io.weights import save_weights
from liveedit_jax.scaling.mesh import make_mesh
from liveedit_jax.scaling.processes import start as start_processes
from liveedit_jax.training.loop import record_start, train
from liveedit_jax.training.optimizers import TrainState


def main() -> None:
    with one_line_errors("train_editor"):
        _main()


def _main() -> None:
    begin = time.time()
    args, chosen, recipe = parse(__doc__)
    if args.editor != "liveedit":
        train_baseline(args, chosen)
        return
    start_processes(args.coordinator, args.processes, args.process)
    if args.ship and jax.process_count() > 1:
        raise ValueError("--ship from one process, afterwards, with the same --out")
    if args.mesh:
        make_mesh(args.mesh)  # refused now rather than after everything has been read
    run = prepare(args, chosen, recipe)
    evaluate = None
    if not is_public(chosen):
        evaluate = dev_figures(partial(parts_of, run), chosen.backbone.vision.image_size)
    starts = note(run)
    step, state, batch_at = stepping(run)
    state, step = train(
        step,
        state,
        batch_at,
        recipe.steps_n,
        args.out,
        save_every=args.save_every,
        evaluate=None if args.mesh else evaluate,
        evaluate_every=1000,
        stop_after_s=seconds_left(args, begin),
        profile=args.profile,
    )
    if to_ship(args, step, recipe.steps_n, begin):
        state = state.replace(params=jax.device_get(state.params))  # wherever they lie
        ship(run, state, step, starts, evaluate(state) if evaluate else {})


def parts_of(run: Run, state: TrainState) -> ModelParts:
    """The model with its editor as training has it."""
    frozen, editor = run.frozen, LiveEdit(run.chosen.editor)
    return ModelParts(frozen.backbone, frozen.weights, frozen.tokenizer, editor, state.params)


def note(run: Run) -> list[dict]:
    """Write into its folder what the run is; returns its starts (`record_start`)."""
    starts = record_start(run.args.out, run.trained_by)
    if jax.process_index() == 0:
        config = as_dict(run.chosen) | run.trained_by | run.made_by
        (run.args.out / "config.json").write_text(json.dumps(config))
    return starts


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
        "commit": git_commit(),
        "dev": {"seed": DEV_SEED, "edits": DEV_N, **figures} if figures else None,
    }
    digest = save_weights(run.args.ship / "editor", state.params, recipe)
    print(json.dumps(figures, indent=1), f"\nwrote {run.args.ship} sha256 {digest}")


if __name__ == "__main__":
    main()
