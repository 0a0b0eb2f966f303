"""Kill a writer again and again, and damage its files: no acknowledged edit may be lost.

    python -m experiments.checks.crash --kills 200 --out runs/crash

A writer adds, forgets and rolls back edits and writes snapshots; it acknowledges each operation
once it is durable. It is killed (SIGKILL) at a random moment, often in the middle of a write. After
recovery every acknowledged operation has to be there, and at most one more. Each time, a copy of
the folder is damaged (one byte changed, or a file cut short) and opened: it must be refused, or
hold the same edits.
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
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor.repository import F32, alive
from liveedit_jax.live import LiveRepository
from liveedit_jax.store import Header, Request, open_store

CFG = EditorConfig(module_width=64, heads_n=1, rank=2, queries_n=1)
WIDTH, SNAPSHOT_EVERY = 256, 15
BODY = (CFG.rank, WIDTH)
HEADER = Header("b", "e", {"text_key": (64,), "vision_key": (64,), "down": BODY, "up": BODY})
FORK = multiprocessing.get_context("fork")  # JAX is imported once and started in every child


def make_expert(target: str) -> dict[str, np.ndarray]:
    """Draw the expert of an edit from its target, a number."""
    rng = np.random.default_rng(int(target))
    return {
        name: rng.normal(size=(1, *shape)).astype(np.float32)
        for name, shape in HEADER.shapes.items()
    }


def write(folder: Path, seed: int, pipe) -> None:
    """Make random operations forever, and send (operations so far, live ids) after each one."""
    rng = random.Random(seed)
    with open_store(folder, write=True, create=HEADER) as store:
        live = LiveRepository(store, CFG, WIDTH, F32)
        pipe.send((store.history.seq, sorted(store.history.live.values())))
        while True:
            kind, history = rng.random(), store.history
            if kind < 0.1 and history.live:
                edit_id = rng.choice(sorted(history.live.values()))
                store.forget(edit_id)
                live.delete([edit_id])
            elif kind < 0.13 and history.done:
                store.rollback(rng.randint(1, min(3, len(history.done))))
                live.load()
            else:
                targets = [str(rng.randrange(2**31)) for _ in range(rng.randint(1, 3))]
                for target in targets:
                    image = store.add_image(f"image {rng.randrange(200)}".encode())
                    ids = store.add_edits([Request(image, "what?", target)], make_expert(target))
                    live.add(make_expert(target), ids)
            pipe.send((store.history.seq, sorted(store.history.live.values())))
            if rng.random() < 1 / SNAPSHOT_EVERY:
                live.save()


def read(folder: Path, pipe) -> None:
    """Open the folder and send what it holds.

    Sends (operations, live id -> target, skipped, snapshot's operations); ("refused", error);
    or, where an expert in memory is not its edit's, a text that says so (a corrupt load).
    """
    try:
        with open_store(folder) as store:
            live = LiveRepository(store, CFG, WIDTH, F32)
            found, edits = {}, store.history.edits
            rows = np.flatnonzero(np.asarray(alive(live.repo)))
            for row, edit_id in zip(rows, np.asarray(live.repo.edit_id)[rows], strict=True):
                target = edits[int(edit_id)].request.target
                for name, value in make_expert(target).items():
                    kept = np.asarray(getattr(live.repo, name).value[row])
                    if not np.array_equal(kept, value[0]):
                        raise RuntimeError(f"corrupt load: {name} of edit {edit_id}")
                found[int(edit_id)] = target
            pipe.send((store.history.seq, found, live.skipped, live.snapshot_seq))
    except RuntimeError as error:
        pipe.send(str(error))
    except (ValueError, OSError) as error:
        pipe.send(("refused", str(error)))


def read_in_child(folder: Path):
    """Run `read` in a child process and return what it sends."""
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=read, args=(folder, there))
    child.start()
    found = here.recv()
    child.join()
    return found


def run_and_kill(folder: Path, seed: int, rng: random.Random) -> tuple[int, list[int]]:
    """Run a writer, kill it, and return the last operation it acknowledged."""
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=write, args=(folder, seed, there))
    child.start()
    there.close()
    last = here.recv()
    time.sleep(rng.uniform(0.0, 1.5))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    try:
        while True:
            last = here.recv()
    except EOFError:
        return last


def damage(folder: Path, rng: random.Random) -> str:
    """Change one bit of a random file, or cut it short; returns the kind of file."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.stat().st_size and f.name != "lock"]
    files = [f for f in files if f.parent.name != "images"]
    by_kind = {}
    for file in sorted(files):
        by_kind.setdefault("snapshot" if "snapshots" in file.parts else file.name, []).append(file)
    kind = rng.choice(sorted(by_kind))
    file = rng.choice(by_kind[kind])
    data = bytearray(file.read_bytes())
    if rng.random() < 0.5:
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    else:
        del data[rng.randrange(len(data)) :]
    file.write_bytes(data)
    return kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/crash"))
    args = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(args.out.resolve() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    folder, copy = args.out / "repository", args.out / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    rng, count = random.Random(args.seed), Counter()
    for i in tqdm(range(args.kills), desc="kills"):
        seq, acknowledged = run_and_kill(folder, args.seed * 100_000 + i, rng)
        found = read_in_child(folder)
        if isinstance(found, str) or found[0] == "refused":
            raise SystemExit(f"after kill {i}: {found}")
        count["operations"] = found[0]
        count["lost"] += found[0] < seq or (found[0] == seq and sorted(found[1]) != acknowledged)
        count["from a snapshot"] += found[3] > 0
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        kind = damage(copy, rng)
        after = read_in_child(copy)
        if isinstance(after, str):
            count["corrupt loads"] += 1
        elif after[0] == "refused":
            count[f"{kind}: refused"] += 1
        elif after[:2] == found[:2]:
            count[f"{kind}: same edits"] += 1
        else:
            prefix = kind == "journal.jsonl" and after[0] < found[0]  # its last lines were cut off
            count["cut journal: fewer edits" if prefix else "corrupt loads"] += 1
    result = {"kills": args.kills, "seed": args.seed, "lost": 0, "corrupt loads": 0} | dict(count)
    (args.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if result["lost"] or result["corrupt loads"]:
        raise SystemExit("edits were lost or damage was accepted")


if __name__ == "__main__":
    main()
