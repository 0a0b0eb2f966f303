"""Check that training resumed after kill -9 gives the same weights as uninterrupted training.

    python -m experiments.checks.resume --kills 3 --seed 0 --out runs/resume_check

Runs `train_editor --config tiny` once without interruption; then, for every kill, a run that is
killed at a random moment and started again. The final checkpoints have to be equal bit for bit,
optimiser moments and counters included; exits with 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from liveedit_jax.model_io.weights import sha256_of
from liveedit_jax.training.loop import saved_step


def start_training(out: Path, steps_n: int, save_every: int) -> subprocess.Popen:
    """Start training in a process, from the shipped editor or where `out` was left."""
    command = ["experiments.train_editor", "--config", "tiny", "--start-from", "checkpoints/tiny"]
    command += ["--steps", str(steps_n), "--save-every", str(save_every), "--out", str(out)]
    log = (out.parent / f"{out.name}.txt").open("a")
    return subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log)


def wait_for(process: subprocess.Popen) -> None:
    """Wait for a process.

    Raises:
        RuntimeError: it failed.
    """
    if process.wait():
        raise RuntimeError(f"{' '.join(process.args)} ended with {process.returncode}")


def digest(out: Path, step: int) -> str:
    """Return the sha256 of everything that a checkpoint holds."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(out.resolve() / "state") as manager:
        return sha256_of(manager.restore(step, args=ocp.args.StandardRestore()))


def train_with_kill(out: Path, steps_n: int, save_every: int, rng: random.Random) -> int:
    """Train, kill the run once after a random step, resume it; returns the step saved by then."""
    process = start_training(out, steps_n, save_every)
    after = rng.randrange(save_every, steps_n - save_every)
    while saved_step(out) < after - after % save_every:
        if process.poll() is not None:
            raise RuntimeError(f"{out}: ended before it was killed")
        time.sleep(0.05)
    time.sleep(rng.random())
    process.kill()
    process.wait()
    found = saved_step(out)
    wait_for(start_training(out, steps_n, save_every))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/resume_check"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--save-every", type=int, default=6)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if any(args.out.iterdir()):
        parser.error(f"--out: {args.out} is not empty")
    rng = random.Random(args.seed)
    wait_for(start_training(args.out / "straight", args.steps, args.save_every))
    want, found = digest(args.out / "straight", args.steps), []
    for i in range(args.kills):
        out = args.out / f"killed-{i}"
        saved = train_with_kill(out, args.steps, args.save_every, rng)
        found.append({"saved_at_kill": saved, "equal": digest(out, args.steps) == want})
        print(found[-1], flush=True)
    results = {"steps": args.steps, "seed": args.seed, "sha256": want, "kills": found}
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(not all(kill["equal"] for kill in found))


if __name__ == "__main__":
    main()
