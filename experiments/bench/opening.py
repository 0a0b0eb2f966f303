"""Time opening a repository against reading its bytes, and an edit's commit in two journal modes.

    python -m experiments.bench.opening --width 4096 --edits 1000,10000 --out runs/opening

Experts have the paper's sizes (M 1024, R 4, E 4) and are random, in bfloat16 on disk and in memory.
Four things are timed: `read`, the file from its first byte to its last, through one block of 4 MB;
`keep`, the same into memory of its size, new as an array's is; `scan`, reading and checking all
experts; `open`, opening: history, experts, arrays. Each is the median of --repeats from the page
cache, or with --cold from the disk (the system is asked to drop the file from its cache; Linux).
`_cpu_s` is the time of all threads, of the system too. `open_over_read` and `open_over_keep` are
ratios of CPU times, with --cold of wall times. --scan leaves opening out, for arrays that do not
fit into memory, and --reuse takes the repository that --keep-file left. DIR/results.json holds all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from experiments.bench.repository_cases import CFG
from liveedit_jax.config import Precision, StorageConfig
from liveedit_jax.evaluation.run import git_commit
from liveedit_jax.live import LiveRepository
from liveedit_jax.store import Header, Request, image_sha256, open_store

STORAGE = StorageConfig(keys=Precision.BF16, bodies=Precision.BF16)
STORED_N = 64  # edits stored in one transaction
PICTURES_N = 100
COMMITS_N = 30


def header_of(width: int) -> Header:
    """Describe a repository of the paper's experts."""
    key, body = (CFG.queries_n * CFG.module_width,), (CFG.rank, width)
    shapes = {"text_key": key, "vision_key": key, "down": body, "up": body}
    return Header("b", "e", "t", shapes, "bfloat16")


def fill(path: Path, header: Header, edits_n: int) -> None:
    """Make a repository of random edits."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=(STORED_N, *shape)).astype(np.float32)
        for name, shape in header.shapes.items()
    }
    pictures = [rng.bytes(20_000) for _ in range(PICTURES_N)]
    with open_store(path, write=True, create=header) as store:
        for at in tqdm(range(0, edits_n, STORED_N), desc=f"{edits_n} edits"):
            rows = range(at, min(at + STORED_N, edits_n))
            shown = [pictures[i % PICTURES_N] for i in rows]
            requests = [
                Request(image_sha256(data), f"Question {i}?", f"answer {i}")
                for i, data in zip(rows, shown, strict=True)
            ]
            store.add_edits(requests, {n: a[: len(rows)] for n, a in arrays.items()}, shown)


def timed(
    run: Callable[[], object], repeats: int, prepare: Callable[[], object]
) -> tuple[float, float]:
    """Return the median wall and CPU time of a call."""
    wall, cpu = [], []
    for _ in range(repeats):
        prepare()
        begin = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - begin[0])
        cpu.append(time.process_time() - begin[1])
    return statistics.median(wall), statistics.median(cpu)


def read_bytes(path: Path) -> None:
    """Read a file from its first byte to its last."""
    block = bytearray(1 << 22)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(block):
            pass


def keep_bytes(path: Path) -> None:
    """Read a file into memory that nobody has used before."""
    kept = memoryview(np.empty(path.stat().st_size, np.uint8))
    at = 0
    with open(path, "rb", buffering=0) as file:
        while at < len(kept):
            at += file.readinto(kept[at : at + (1 << 22)])


def drop_from_cache(path: Path) -> None:
    """Ask the system to drop a file from its cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def scan(path: Path) -> None:
    """Read and check all experts, and keep none."""
    with open_store(path) as store, store.transaction():
        for _ in store.experts():
            pass


def open_arrays(path: Path, width: int) -> None:
    """Open a repository, its arrays included."""
    with open_store(path) as store:
        jax.block_until_ready(LiveRepository(store, CFG, width, STORAGE).repo)


def time_commits(path: Path, header: Header, mode: str) -> float:
    """Return the median time of writing one expert durably, so that the one file is complete."""
    rng = np.random.default_rng(0)
    size = 2 * sum(int(np.prod(shape)) for shape in header.shapes.values())
    spent = []
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode = {mode}")
        db.execute(f"PRAGMA synchronous = {'FULL' if mode == 'WAL' else 'EXTRA'}")
        db.execute("CREATE TABLE experts (id INTEGER PRIMARY KEY, data BLOB)")
        for _ in range(COMMITS_N):
            data = rng.bytes(size)
            begin = time.perf_counter()
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO experts (data) VALUES (?)", (data,))
            db.execute("COMMIT")
            if mode == "WAL":
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            spent.append(time.perf_counter() - begin)
    path.unlink()
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--edits", default="1000,10000", help="numbers of edits")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scan", action="store_true", help="leave opening the arrays out")
    parser.add_argument("--cold", action="store_true", help="read from the disk")
    parser.add_argument("--keep-file", action="store_true", help="leave the last repository")
    parser.add_argument("--reuse", action="store_true", help="take the one that is there")
    parser.add_argument("--out", type=Path, default=Path("runs/opening"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path, header = args.out / "repository", header_of(args.width)
    found: dict = {"width": args.width, "commit": git_commit(), "cold": args.cold}
    for mode in ("DELETE", "WAL"):
        found[f"commit_{mode.lower()}_s"] = time_commits(args.out / "commits", header, mode)
    for edits_n in map(int, args.edits.split(",")):
        if not args.reuse:
            path.unlink(missing_ok=True)
            fill(path, header, edits_n)
        found[str(edits_n)] = measured(path, args)
        print(json.dumps({edits_n: found[str(edits_n)]}))
    if not args.keep_file:
        path.unlink()
    found["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")


def measured(path: Path, args: argparse.Namespace) -> dict[str, float]:
    """Time all ways of reading a repository."""
    cases = {
        "read": lambda: read_bytes(path),
        "keep": lambda: keep_bytes(path),
        "scan": lambda: scan(path),
    }
    if not args.scan:
        cases["open"] = lambda: open_arrays(path, args.width)
    found: dict[str, float] = {"bytes": path.stat().st_size}
    for name, run in cases.items():
        if not args.cold:
            run()  # fill the page cache
        prepare = (lambda: drop_from_cache(path)) if args.cold else lambda: None
        found[f"{name}_s"], found[f"{name}_cpu_s"] = timed(run, args.repeats, prepare)
    if "open" in cases:
        of = "s" if args.cold else "cpu_s"
        for name in ("read", "keep"):
            found[f"open_over_{name}"] = found[f"open_{of}"] / found[f"{name}_{of}"]
    return found


if __name__ == "__main__":
    main()
