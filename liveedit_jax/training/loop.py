"""The one training loop: exact resume, progress bar with ETA, TensorBoard scalars."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm


def saved_step(folder: str | Path) -> int:
    """The step that a run in `folder` would resume from; 0 where nothing whole was saved."""
    saved = (Path(folder) / "state").glob("*")
    return max((int(path.name) for path in saved if path.name.isdigit()), default=0)


def record_start(folder: str | Path, run: dict) -> list[dict]:
    """Note in `starts.jsonl` what a run goes on with, where that is not what it began with.

    Args:
        folder: the run folder.
        run: configs as plain values.

    Returns:
        Every start that changed something, {"step": first step, **run}: what weights were made by.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file, run = folder / "starts.jsonl", json.loads(json.dumps(run))
    starts = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    start = {"step": saved_step(folder), **run}
    if not starts or {**starts[-1], "step": 0} != {**start, "step": 0}:
        starts.append(start)
        file.write_text("".join(json.dumps(line) + "\n" for line in starts))
    return starts


def train(
    step: Callable[[Any, Any], tuple[Any, dict]],
    state: Any,
    batch_at: Callable[[int], Any],
    steps_n: int,
    folder: str | Path,
    save_every: int = 500,
    log_every: int = 20,
    evaluate: Callable[[Any], dict] | None = None,
    evaluate_every: int = 1000,
    stop_after_s: float | None = None,
) -> tuple[Any, int]:
    """Run `state, scalars = step(state, batch_at(i))` up to `steps_n`, resuming from `folder`.

    Batches are a function of the step, so a killed run that resumes is the same run.

    Args:
        step: a jitted pure function with its state donated.
        state: a pytree of arrays; the latest checkpoint in `folder` replaces it.
        batch_at: host function from the step to its batch.
        steps_n: the last step of the recipe.
        folder: checkpoints, TensorBoard files and `log.jsonl` go there.
        save_every: steps between checkpoints.
        log_every: steps between logged means.
        evaluate: state -> scalars, every `evaluate_every` steps and at the end.
        evaluate_every: steps between evaluations.
        stop_after_s: stop (with a checkpoint) after so many seconds.

    Returns:
        The last state and the step it has reached.
    """
    import orbax.checkpoint as ocp
    from tensorboardX import SummaryWriter

    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    manager = ocp.CheckpointManager(
        folder / "state", options=ocp.CheckpointManagerOptions(max_to_keep=2)
    )
    start = manager.latest_step() or 0
    if start:
        state = manager.restore(start, args=ocp.args.StandardRestore(state))
    writer, begin, window, done = SummaryWriter(str(folder)), time.monotonic(), [], start

    def log(i: int, scalars: dict) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, float(value), i)
        with (folder / "log.jsonl").open("a") as file:
            file.write(
                json.dumps({"step": i, **{k: round(float(v), 5) for k, v in scalars.items()}})
            )
            file.write("\n")

    with tqdm(total=steps_n, initial=start, unit="step", mininterval=5) as bar:
        for i in range(start, steps_n):
            state, scalars = step(state, batch_at(i))
            window.append(scalars)
            done = i + 1
            bar.update()
            if done % log_every == 0 or done == steps_n:
                host = jax.device_get(window)
                means = {k: np.mean([s[k] for s in host]) for k in host[0]}
                if not np.isfinite(means["loss"]):
                    raise FloatingPointError(
                        f"the loss is not finite at step {done}: lower the rate"
                    )
                log(done, means)
                bar.set_postfix({"loss": f"{means['loss']:.3f}"}, refresh=False)
                window = []
            late = stop_after_s is not None and time.monotonic() - begin > stop_after_s
            if evaluate is not None and (done % evaluate_every == 0 or done == steps_n):
                figures = evaluate(state)
                log(done, figures)
                tqdm.write(f"step {done}: " + " ".join(f"{k} {v:.4f}" for k, v in figures.items()))
            if done % save_every == 0 or done == steps_n or late:
                manager.save(done, args=ocp.args.StandardSave(state))
            if late:
                break
    manager.wait_until_finished()
    manager.close()
    writer.close()
    return state, done
