"""Kill a writer again and again, and damage its file: no acknowledged edit may be lost.

    python -m experiments.checks.crash --kills 200 --out runs/crash

A writer adds, forgets, rolls back, purges and rebuilds edits; it acknowledges each operation once
it is durable. It is killed (SIGKILL) at a random moment, often in the middle of a write. After
recovery every acknowledged operation has to be there, and at most one more. Each time, a copy of
the file is damaged (one bit changed, or cut short) and opened: it must be refused, or hold the same
edits.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor.repository import F32, alive
from liveedit_jax.live import LiveRepository
from liveedit_jax.store import Header, Request, Store, image_sha256, open_store, rebuild

CFG = EditorConfig(module_width=64, heads_n=1, rank=2, queries_n=1)
WIDTH = 256
BODY = (CFG.rank, WIDTH)
SHAPES = {"text_key": (64,), "vision_key": (64,), "down": BODY, "up": BODY}
HEADER = Header("b", "e", "t", SHAPES)
FORK = multiprocessing.get_context("fork")  # JAX is imported once and started in every child


def make_expert(target: str, model: str = "b") -> dict[str, np.ndarray]:
    """Draw the expert that a model makes of an edit, from its target, a number."""
    rng = np.random.default_rng([int(target), *model.encode()])
    return {name: rng.normal(size=(1, *shape)).astype(np.float32) for name, shape in SHAPES.items()}


def add_edits(store: Store, targets: list[str], model: str = "b") -> list[int]:
    """Store edits of pictures that follow from their targets, in one transaction."""
    pictures = [b"image %d" % (int(target) % 60) for target in targets]
    requests = [
        Request(image_sha256(data), "what?", target)
        for data, target in zip(pictures, targets, strict=True)
    ]
    experts = [make_expert(target, model) for target in targets]
    arrays = {name: np.concatenate([each[name] for each in experts]) for name in SHAPES}
    return store.add_edits(requests, arrays, pictures)


def rebuild_for(path: Path, model: str) -> None:
    """Re-make all experts with another model."""

    def make(store: Store, edits) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        experts = [make_expert(edit.request.target, model) for edit in edits]
        return {name: np.concatenate([each[name] for each in experts]) for name in SHAPES}, {}

    rebuild(path, replace(HEADER, backbone_sha256=model), make, 16)


def state_of(store: Store) -> tuple[int, list[int]]:
    """Tell how many operations there were (purges and rebuilds count, too), and what lives."""
    state = store.history.state
    return state.operations + state.epoch, sorted(store.history.live.values())


def write(path: Path, seed: int, pipe) -> None:
    """Make random operations forever, and send `state_of` after each one."""
    rng = random.Random(seed)
    store = open_store(path, write=True, create=HEADER)
    live = LiveRepository(store, CFG, WIDTH, F32)
    pipe.send(state_of(store))
    while True:
        kind, history = rng.random(), store.history
        if kind < 0.1 and history.live:
            store.forget(rng.choice(sorted(history.live.values())))
        elif kind < 0.14 and history.state.clock:
            store.rollback(rng.randint(1, min(3, history.state.clock)))
        elif kind < 0.18 and history.edits:
            store.purge(rng.choice(sorted(history.edits)))
        elif kind < 0.22 and history.live:
            store.close()
            rebuild_for(path, rng.choice("abc"))
            store = open_store(path, write=True)
            live = LiveRepository(store, CFG, WIDTH, F32)
        else:
            targets = [str(rng.randrange(2**31)) for _ in range(rng.randint(1, 3))]
            add_edits(store, targets, store.header.backbone_sha256)
        live.follow()
        pipe.send(state_of(store))


def read(path: Path, pipe) -> None:
    """Open the file and send what it holds.

    Sends (`state_of`, live id -> target); ("refused", error); or, where an expert in memory or a
    picture is not its edit's, a text that says so (a corrupt load).
    """
    try:
        with open_store(path) as store:
            live = LiveRepository(store, CFG, WIDTH, F32)
            found, edits = {}, store.history.edits
            rows = np.flatnonzero(np.asarray(alive(live.repo)))
            for row, edit_id in zip(rows, np.asarray(live.repo.edit_id)[rows], strict=True):
                target = edits[int(edit_id)].request.target
                for name, value in make_expert(target, store.header.backbone_sha256).items():
                    kept = np.asarray(getattr(live.repo, name).value[row])
                    if not np.array_equal(kept, value[0]):
                        raise RuntimeError(f"corrupt load: {name} of edit {edit_id}")
                if store.picture(edits[int(edit_id)].request.image) != b"image %d" % (
                    int(target) % 60
                ):
                    raise RuntimeError(f"corrupt load: the picture of edit {edit_id}")
                found[int(edit_id)] = target
            state = state_of(store)
            if sorted(found) != state[1]:
                raise RuntimeError(f"corrupt load: {sorted(found)} instead of {state[1]}")
            pipe.send((state, found))
    except RuntimeError as error:
        pipe.send(str(error))
    except (ValueError, OSError) as error:
        pipe.send(("refused", str(error)))


def read_in_child(path: Path):
    """Run `read` in a child process and return what it sends."""
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=read, args=(path, there))
    child.start()
    there.close()
    try:
        found = here.recv()
    except EOFError:
        found = "the reader died"
    child.join()
    return found


def run_and_kill(path: Path, seed: int, rng: random.Random) -> tuple[int, list[int]]:
    """Run a writer, kill it, and return the last state that it acknowledged."""
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=write, args=(path, seed, there))
    child.start()
    there.close()
    last = here.recv()
    time.sleep(rng.uniform(0.0, 1.5))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with suppress(EOFError):
        while True:
            last = here.recv()
    return last


def damage(path: Path, rng: random.Random) -> str:
    """Change one bit of a file, or cut it short; returns which."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(("bit", "cut"))
    if kind == "bit":
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    else:
        del data[rng.randrange(len(data)) :]
    path.write_bytes(data)
    return kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/crash"))
    args = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(args.out.resolve() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    path, copy = args.out / "repository", args.out / "damaged"
    path.unlink(missing_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    rng, count = random.Random(args.seed), Counter()
    for i in tqdm(range(args.kills), desc="kills"):
        operations, acknowledged = run_and_kill(path, args.seed * 100_000 + i, rng)
        in_the_middle = path.with_name(f"{path.name}-journal").exists()
        found = read_in_child(path)
        if isinstance(found, str) or found[0] == "refused":
            raise SystemExit(f"after kill {i}: {found}")
        (now, live), _ = found
        count["operations"] = now
        count["killed in the middle of a write"] += in_the_middle
        count["lost"] += now < operations or (now == operations and live != acknowledged)
        shutil.copyfile(path, copy)
        kind = damage(copy, rng)
        after = read_in_child(copy)
        if isinstance(after, str):
            print(after)
            count["corrupt loads"] += 1
        elif after[0] == "refused":
            count[f"{kind}: refused"] += 1
        else:
            count[f"{kind}: same edits" if after == found else "corrupt loads"] += 1
    result = {"kills": args.kills, "seed": args.seed, "lost": 0, "corrupt loads": 0} | dict(count)
    (args.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if result["lost"] or result["corrupt loads"]:
        raise SystemExit("edits were lost or damage was accepted")


if __name__ == "__main__":
    main()
