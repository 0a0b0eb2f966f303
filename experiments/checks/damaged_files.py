"""Damage a repository's file in many ways: it is refused in one line, or holds the same edits.

    python -m experiments.checks.damaged_files --files 2000 --out runs/damaged

Half of the copies are damaged as disks do it: bits change, the file is cut short, sectors are
zeroed, exchanged or written twice. The other half are changed by SQLite: a value of a row becomes
another one, or a row is deleted. Each copy is opened, and all experts and pictures are read.
DIR/results.json counts what happened and holds the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from experiments.checks.crash import HEADER, add_edits, load
from liveedit_jax.store import open_store

SECTOR = 512  # bytes
EDITS_N = 50


def change_bytes(path: Path, rng: random.Random) -> str:
    """Damage a file as a disk does; returns how."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(("bit", "bits", "cut", "zeros", "exchange", "twice", "noise", "grown"))
    size = SECTOR * rng.choice((1, 8, 32))
    here, there = (size * rng.randrange(len(data) // size) for _ in range(2))
    match kind:
        case "bit" | "bits":
            for _ in range(1 if kind == "bit" else 8):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "cut":
            del data[rng.randrange(len(data)) :]
        case "zeros":
            data[here : here + size] = bytes(size)
        case "noise":
            data[here : here + size] = rng.randbytes(size)
        case "exchange":
            first, second = data[here : here + size], data[there : there + size]
            data[here : here + size], data[there : there + size] = second, first
        case "twice":
            data[here : here + size] = data[there : there + size]
        case "grown":
            data += rng.randbytes(size)
    path.write_bytes(data)
    return kind


def change_values(path: Path, rng: random.Random) -> str:
    """Change a value through SQLite, or delete a row; returns which."""
    with closing(sqlite3.connect(path)) as db, db:
        while True:
            table = rng.choice(("repository", "edits", "experts", "pictures"))
            rows = [row for (row,) in db.execute(f"SELECT rowid FROM {table}")]
            if not rows:
                continue
            row = rng.choice(rows)
            names = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
            column = rng.choice([*names, "a row"])
            try:
                if column == "a row":
                    db.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
                else:
                    (old,) = db.execute(
                        f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)
                    ).fetchone()
                    new = rng.choice(
                        (None, 0, -1, rng.getrandbits(62), 2**62, 0.5, "", "[[[", "{}", b"", old)
                    )
                    if new is old and isinstance(old, (str, bytes)) and old:
                        new = old[: rng.randrange(len(old))]
                    db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, row))
            except (sqlite3.IntegrityError, OverflowError):  # a constraint of the tables
                continue
            return f"{table}: {column}"


def make_repository(path: Path) -> dict[int, str]:
    """Make a repository with some history; returns the live edits' targets by id."""
    with open_store(path, write=True, create=HEADER) as store:
        for at in range(0, EDITS_N, 5):
            add_edits(store, [str(i) for i in range(at, at + 5)])
        store.forget(3)
        store.rollback(2)
        add_edits(store, ["7", "100"])
    return load(path)[1]


def check_damage(folder: Path, files_n: int, seed: int = 0) -> Counter:
    """Damage copies of a repository and open them.

    Args:
        folder: an empty folder for the files.
        files_n: how many copies.
        seed: draws the damage.

    Returns:
        How many were refused, and how many held the same edits, by the kind of damage.

    Raises:
        RuntimeError: a copy held other edits, or its refusal was not one line.
    """
    start, copy, rng, count = folder / "repository", folder / "copy", random.Random(seed), Counter()
    live = make_repository(start)
    for i in tqdm(range(files_n), desc="damaged files", disable=None):
        shutil.copyfile(start, copy)
        how = rng.choice((change_bytes, change_values))(copy, rng)
        try:
            _, found = load(copy)
        except (ValueError, OSError) as error:
            if "\n" in str(error) or not str(error):
                raise RuntimeError(f"copy {i} ({how}): not one line: {error!r}") from error
            count[f"{how}: refused"] += 1
            count["refused"] += 1
        except Exception as error:
            raise RuntimeError(f"copy {i} ({how}): {error!r}") from error
        else:
            if found != live:
                raise RuntimeError(f"copy {i} ({how}) holds other edits")
            count[f"{how}: the same edits"] += 1
            count["the same edits"] += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/damaged"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "repository").unlink(missing_ok=True)
    count = check_damage(args.out, args.files, args.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    result = {"files": args.files, "seed": args.seed, "peak_rss_gb": peak}
    result |= dict(sorted(count.items()))
    (args.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
