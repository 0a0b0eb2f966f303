"""Kill a writer again and again, and damage its file: no acknowledged edit may be lost.

    python -m experiments.checks.crash --kills 200 --out runs/crash

A writer adds, forgets, rolls back, purges, imports and rebuilds edits; it acknowledges each
operation once it is durable. It is killed (SIGKILL) at a random moment of an operation whose kind
is drawn before, often in the middle of a write. After recovery every acknowledged operation has to
be there, and at most one more. Each time, a copy of the file is damaged (one bit changed, or cut
short) and opened: it must be refused, or hold the same edits.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor.repository import F32, alive
from liveedit_jax.live import LiveRepository
from liveedit_jax.session.images import ImageFile
from liveedit_jax.session.transfer import import_edits
from liveedit_jax.store import Header, Request, Store, image_sha256, open_store, rebuild

CFG = EditorConfig(module_width=64, heads_n=1, rank=2, queries_n=1)
WIDTH = 256
BODY = (CFG.rank, WIDTH)
SHAPES = {"text_key": (64,), "vision_key": (64,), "down": BODY, "up": BODY}
HEADER = Header("b", "e", "t", SHAPES)
PROMPT = "what?"
# How often a writer does what, of 100 operations.
KINDS = {"edit": 60, "forget": 10, "rollback": 10, "purge": 8, "import": 8, "rebuild": 4}
FORK = multiprocessing.get_context("fork")  # JAX is imported once and started in every child


def make_expert(target: str, model: str = "b") -> dict[str, np.ndarray]:
    """Draw the expert that a model makes of an edit, from its target, a number."""
    rng = np.random.default_rng([int(target), *model.encode()])
    return {name: rng.normal(size=(1, *shape)).astype(np.float32) for name, shape in SHAPES.items()}


def picture_of(target: str) -> bytes:
    """Make the picture of the edit with this target."""
    return b"image %d" % (int(target) % 60)


def add_edits(store: Store, targets: list[str], model: str = "b") -> list[int]:
    """Store edits of pictures that follow from their targets, in one transaction."""
    pictures = [picture_of(target) for target in targets]
    requests = [
        Request(image_sha256(data), PROMPT, target)
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

    rebuild(path, replace(HEADER, backbone_sha256=model), make, 64)


def state_of(store: Store) -> tuple[int, list[int]]:
    """Tell how many operations there were (purges and rebuilds count, too), and what lives."""
    state = store.history.state
    return state.operations + state.epoch, sorted(store.history.live.values())


class ReadEdit(NamedTuple):
    """An edit whose picture has been read."""

    stored: Request
    picture: bytes


class Added(NamedTuple):
    """Edits that have just become durable."""

    ids: list[int]


class Importer:
    """Serve `import_edits` as a session does, with experts that are drawn instead of made."""

    def __init__(self, store: Store):
        """Import into an open store."""
        self.store = store

    def read(self, image: ImageFile, prompt: str, target: str) -> ReadEdit:
        """Read an edit."""
        return ReadEdit(Request(image_sha256(image.data), prompt, target), image.data)

    def add(self, edits: list[ReadEdit]) -> Added:
        """Store edits in one transaction."""
        targets = [edit.stored.target for edit in edits]
        return Added(add_edits(self.store, targets, self.store.header.backbone_sha256))


def write_import(file: Path, rng: random.Random) -> None:
    """Write a file of edits as `export_edits` does, of new ones."""
    with open(file, "w") as out:
        for _ in range(rng.randint(20, 60)):
            target = str(rng.randrange(2**31))
            picture = base64.b64encode(picture_of(target)).decode()
            print(json.dumps({"prompt": PROMPT, "target": target, "image": picture}), file=out)


def write(path: Path, seed: int, often: str, pipe) -> None:
    """Make random operations forever, every fourth of the kind `often`.

    Sends each one's kind before it, and `state_of` once it is durable.
    """
    rng = random.Random(seed)
    store = open_store(path, write=True, create=HEADER)
    live = LiveRepository(store, CFG, WIDTH, F32)
    pipe.send(state_of(store))
    while True:
        kind, history = rng.choices(list(KINDS), list(KINDS.values()))[0], store.history
        kind = often if rng.random() < 0.25 else kind
        pipe.send(kind)
        match kind:
            case "forget" if history.live:
                store.forget(rng.choice(sorted(history.live.values())))
            case "rollback" if history.state.clock:
                store.rollback(rng.randint(1, min(30, history.state.clock)))
            case "purge" if history.edits:
                store.purge(rng.choice(sorted(history.edits)))
            case "import":
                file = path.with_name("import.jsonl")
                write_import(file, rng)
                import_edits(
                    Importer(store), file, lambda _, store=store: pipe.send(state_of(store))
                )
            case "rebuild" if history.live:
                store.close()
                rebuild_for(path, rng.choice("abc"))
                store = open_store(path, write=True)
                live = LiveRepository(store, CFG, WIDTH, F32)
            case _:
                targets = [str(rng.randrange(2**31)) for _ in range(rng.randint(1, 3))]
                add_edits(store, targets, store.header.backbone_sha256)
        live.follow()
        pipe.send(state_of(store))


def load(path: Path) -> tuple[tuple[int, list[int]], dict[int, str]]:
    """Open the file and read all that lives in it.

    Returns:
        `state_of`, and the live edits' targets by id.

    Raises:
        ValueError, OSError: it is refused.
        RuntimeError: an expert in memory, a picture or a text is not its edit's: a wrong load.
    """
    with open_store(path) as store:
        live = LiveRepository(store, CFG, WIDTH, F32)
        found, edits = {}, store.history.edits
        rows = np.flatnonzero(np.asarray(alive(live.repo)))
        memory = {name: np.asarray(getattr(live.repo, name).value) for name in SHAPES}
        for row, edit_id in zip(rows, np.asarray(live.repo.edit_id)[rows].tolist(), strict=True):
            request = edits[edit_id].request
            for name, value in make_expert(request.target, store.header.backbone_sha256).items():
                if not np.array_equal(memory[name][row], value[0]):
                    raise RuntimeError(f"wrong load: {name} of edit {edit_id}")
            if store.picture(request.image) != picture_of(request.target):
                raise RuntimeError(f"wrong load: the picture of edit {edit_id}")
            if request.prompt != PROMPT:
                raise RuntimeError(f"wrong load: the prompt of edit {edit_id}")
            found[edit_id] = request.target
        state = state_of(store)
        if sorted(found) != state[1]:
            raise RuntimeError(f"wrong load: {sorted(found)} instead of {state[1]}")
        return state, found


def read(path: Path, pipe) -> None:
    """Send what `load` returns, ("refused", error), or a text that says what was loaded wrong."""
    try:
        pipe.send(load(path))
    except RuntimeError as error:
        pipe.send(str(error))
    except (ValueError, OSError) as error:
        pipe.send(("refused", str(error)))


def read_and_damage(path: Path, copy: Path, seed: int, pipe) -> None:
    """Send what `read` does, damage a copy, and send how, and what `read` does then."""
    read(path, pipe)
    shutil.copyfile(path, copy)
    pipe.send(damage(copy, random.Random(seed)))
    read(copy, pipe)


def in_child(run: Callable, *args) -> list:
    """Run something in a child process, with a pipe to send through, and return what it sent."""
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=run, args=(*args, there))
    child.start()
    there.close()
    sent = []
    with suppress(EOFError):
        while True:
            sent.append(here.recv())
    child.join()
    return sent


def run_and_kill(path: Path, seed: int, kind: str, rng: random.Random) -> tuple[tuple, str]:
    """Run a writer and kill it during an operation of a kind.

    Returns:
        The last state that it acknowledged, and the kind of the operation that was under way.
    """
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=write, args=(path, seed, kind, there))
    child.start()
    there.close()
    last, doing, begun_n, wanted_n = here.recv(), "opening", 0, rng.randint(1, 4)
    while begun_n < wanted_n:
        if here.poll(60):
            doing, last = _heard(here.recv(), doing, last)
            begun_n += doing == kind
        else:
            break
    time.sleep(rng.choice((0.0, rng.uniform(0.0, 0.02), rng.uniform(0.0, 0.5))))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with suppress(EOFError):
        while True:
            doing, last = _heard(here.recv(), doing, last)
    return last, doing


def _heard(message: str | tuple, doing: str, last: tuple) -> tuple[str, tuple]:
    return (message, last) if isinstance(message, str) else (doing, message)


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
        kind = list(KINDS)[i % len(KINDS)]
        (operations, acknowledged), doing = run_and_kill(path, args.seed * 100_000 + i, kind, rng)
        count[f"killed during {doing}"] += 1
        in_the_middle = path.with_name(f"{path.name}-journal").exists()
        found, *rest = in_child(read_and_damage, path, copy, rng.randrange(2**31))
        if isinstance(found, str) or found[0] == "refused":
            raise SystemExit(f"after kill {i}: {found}")
        damaged, after = rest if len(rest) == 2 else ("?", "the reader died")
        (now, live), _ = found
        count["operations"] = now
        count["killed in the middle of a write"] += in_the_middle
        count["lost"] += now < operations or (now == operations and live != acknowledged)
        if isinstance(after, str):
            print(after)
            count["wrong loads"] += 1
        elif after[0] == "refused":
            count[f"{damaged}: refused"] += 1
        else:
            count[f"{damaged}: same edits" if after == found else "wrong loads"] += 1
    result = {"kills": args.kills, "seed": args.seed, "lost": 0, "wrong loads": 0} | dict(count)
    (args.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if result["lost"] or result["wrong loads"]:
        raise SystemExit("edits were lost or damage was accepted")


if __name__ == "__main__":
    main()
