"""Kill a writer again and again, and damage what it left: nothing acknowledged may be lost.

    python -m experiments.checks.crash --kills 200 --out runs/crash

A writer adds, forgets and rolls back edits and writes snapshots, saying each operation once it is
durable; it is killed (SIGKILL) at a random moment, often inside a write. Recovery then has to hold
every operation that was said, and at most the one after. A copy of the folder is damaged each time
(one byte changed, or a file cut short) and opened: it must be refused, or lead to the same edits.
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


def arrays_of(target: str) -> dict[str, np.ndarray]:
    """The expert that an edit with this target has."""
    rng = np.random.default_rng(int(target))
    return {
        name: rng.normal(size=(1, *shape)).astype(np.float32)
        for name, shape in HEADER.shapes.items()
    }


def write(folder: Path, seed: int, said) -> None:
    """Operations until the end, each said as (operations so far, live ids) once it is durable."""
    rng = random.Random(seed)
    with open_store(folder, write=True, create=HEADER) as store:
        live = LiveRepository(store, CFG, WIDTH, F32)
        said.send((store.history.seq, sorted(store.history.live.values())))
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
                    ids = store.add_edits([Request(image, "what?", target)], arrays_of(target))
                    live.add(arrays_of(target), ids)
            said.send((store.history.seq, sorted(store.history.live.values())))
            if rng.random() < 1 / SNAPSHOT_EVERY:
                live.save()


def read(folder: Path, told) -> None:
    """What opening the folder leads to: (operations, live id -> target, skipped), or an error.

    An expert in memory that is not its edit's is a corrupt load.
    """
    try:
        with open_store(folder) as store:
            live = LiveRepository(store, CFG, WIDTH, F32)
            found, edits = {}, store.history.edits
            rows = np.flatnonzero(np.asarray(alive(live.repo)))
            for row, edit_id in zip(rows, np.asarray(live.repo.edit_id)[rows], strict=True):
                target = edits[int(edit_id)].request.target
                for name, value in arrays_of(target).items():
                    kept = np.asarray(getattr(live.repo, name).value[row])
                    if not np.array_equal(kept, value[0]):
                        raise RuntimeError(f"corrupt load: {name} of edit {edit_id}")
                found[int(edit_id)] = target
            told.send((store.history.seq, found, live.skipped, live.snapshot_seq))
    except RuntimeError as error:
        told.send(str(error))
    except (ValueError, OSError) as error:
        told.send(("refused", str(error)))


def opened(folder: Path):
    """`read` in a child."""
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=read, args=(folder, there))
    child.start()
    found = here.recv()
    child.join()
    return found


def killed(folder: Path, seed: int, rng: random.Random) -> tuple[int, list[int]]:
    """Run a writer, kill it, and give the last thing it said."""
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
    """Change one byte of a file, or cut it short; returns what was done."""
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
        seq, said = killed(folder, args.seed * 100_000 + i, rng)
        found = opened(folder)
        if isinstance(found, str) or found[0] == "refused":
            raise SystemExit(f"after kill {i}: {found}")
        count["operations"] = found[0]
        count["lost"] += found[0] < seq or (found[0] == seq and sorted(found[1]) != said)
        count["from a snapshot"] += found[3] > 0
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        kind = damage(copy, rng)
        after = opened(copy)
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
