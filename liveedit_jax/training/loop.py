"""The one training loop: exact resume, progress bar with ETA, logs, a good end on SIGTERM."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from liveedit_jax.data.prefetch import prefetch
from liveedit_jax.training.optimizers import TrainState
from liveedit_jax.training.stopping import Stopping

SKIPPED_MOST = 20  # steps in a row without effect that end a run
PROFILED_AFTER, PROFILED_N = 5, 3  # steps


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
    if jax.process_index() == 0:
        file.write_text("".join(json.dumps(line) + "\n" for line in starts))
    return starts


@contextmanager
def profiled(folder: Path | None, step: int, first: int) -> Iterator[None]:
    """A jax.profiler trace in `folder` of PROFILED_N steps, once everything is compiled."""
    at = first + PROFILED_AFTER
    if folder is not None and step == at:
        jax.profiler.start_trace(str(folder))
    yield
    if folder is not None and step == at + PROFILED_N - 1:
        jax.profiler.stop_trace()


class Log:
    """TensorBoard and `log.jsonl`, from process 0."""

    def __init__(self, folder: Path):
        """Open both."""
        from tensorboardX import SummaryWriter

        self.first = jax.process_index() == 0
        self._file = folder / "log.jsonl"
        self._writer = SummaryWriter(str(folder)) if self.first else None

    def write(self, step: int, scalars: dict) -> None:
        """Scalars of a step."""
        if self._writer is None:
            return
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)
        line = {"step": step, **{k: round(float(v), 5) for k, v in scalars.items()}}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close both."""
        if self._writer is not None:
            self._writer.close()


def _means(window: list[dict]) -> dict:
    """Means over steps; of those with finite values, where there are any."""
    host = jax.device_get(window)
    columns = {name: np.asarray([scalars[name] for scalars in host]) for name in host[0]}
    finite = {name: values[np.isfinite(values)] for name, values in columns.items()}
    return {k: float(v.mean()) if len(v) else float("nan") for k, v in finite.items()}


def train(
    step: Callable[[TrainState, Any], tuple[TrainState, dict]],
    state: TrainState,
    batch_at: Callable[[int], Any],
    steps_n: int,
    folder: str | Path,
    save_every: int = 500,
    log_every: int = 20,
    evaluate: Callable[[TrainState], dict] | None = None,
    evaluate_every: int = 1000,
    stop_after_s: float | None = None,
    profile: Path | None = None,
) -> tuple[TrainState, int]:
    """Run `state, scalars = step(state, batch_at(i))` up to `steps_n`, resuming from `folder`.

    Batches are a function of the step, so a killed run that resumes is the same run. SIGTERM ends
    it with a checkpoint. Several processes call this alike; process 0 writes logs.

    Args:
        step: a jitted pure function with its state donated.
        state: weights, moments and counters; the latest checkpoint in `folder` replaces it, placed
            as `state` is.
        batch_at: host function from the step to its batch, called ahead in another thread.
        steps_n: the last step of the recipe.
        folder: checkpoints, TensorBoard files and `log.jsonl` go there.
        save_every: steps between checkpoints, which are written while training goes on.
        log_every: steps between logged means.
        evaluate: state -> scalars, every `evaluate_every` steps and at the end.
        evaluate_every: steps between evaluations.
        stop_after_s: stop (with a checkpoint) after so many seconds.
        profile: folder for a trace of a few steps.

    Returns:
        The last state and the step it has reached.

    Raises:
        FloatingPointError: SKIPPED_MOST steps in a row had gradients that are not finite; the last
            checkpoint is from before or among them, and sound.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    manager = ocp.CheckpointManager(
        folder / "state", options=ocp.CheckpointManagerOptions(max_to_keep=2)
    )
    start = manager.latest_step() or 0
    if start:
        state = manager.restore(start, args=ocp.args.StandardRestore(state))
    log, begin, window, done = Log(folder), time.monotonic(), [], start
    last: dict = {}  # the scalars of the step before, which is waited for
    bar = tqdm(total=steps_n, initial=start, unit="step", mininterval=5, disable=not log.first)
    with bar, Stopping() as stopping:
        for i, batch in enumerate(prefetch(batch_at, start, steps_n), start):
            with profiled(profile, i, start):
                state, scalars = step(state, batch)
            window.append(scalars)
            done = i + 1
            logged = done % log_every == 0 or done == steps_n
            jax.block_until_ready(scalars if logged else last)
            last = scalars
            bar.update(done - (not logged) - bar.n)  # finished steps; one more is on its way
            if logged:
                means, window = _means(window), []
                skipped = int(state.skipped_in_a_row)
                log.write(done, means | {"skipped": int(state.skipped_n)})
                if skipped >= SKIPPED_MOST:
                    manager.wait_until_finished()
                    raise FloatingPointError(
                        f"gradients were not finite in the {skipped} steps up to step {done}: "
                        "lower the rate; the run goes on from its last checkpoint"
                    )
                bar.set_postfix({"loss": f"{means['loss']:.3f}"}, refresh=False)
            late = stop_after_s is not None and time.monotonic() - begin > stop_after_s
            late = late or stopping.asked(sync=logged)
            if evaluate is not None and (done % evaluate_every == 0 or done == steps_n):
                figures = evaluate(state)
                log.write(done, figures)
                tqdm.write(f"step {done}: " + " ".join(f"{k} {v:.4f}" for k, v in figures.items()))
            if done % save_every == 0 or done == steps_n or late:
                manager.save(done, args=ocp.args.StandardSave(state))
            if late:
                break
        jax.block_until_ready(last)
        bar.update(done - bar.n)
    manager.wait_until_finished()
    manager.close()
    log.close()
    return state, done
