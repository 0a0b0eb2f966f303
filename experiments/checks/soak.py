"""Edit and ask for a long time in two threads: memory and latency stay flat, nothing is lost.

    python -m experiments.checks.soak --edits 24000 --out runs/soak

One thread stores edits, the other asks as many questions of one session. The model is a narrow
`tiny` with random weights, whose edits are not refined. They are about --subjects questions in
turn, so that later ones supersede earlier ones; the number of live edits, and with it the work of a
question, is the same from then on. Each fourth of the way is a row: the resident memory at its end,
and the CPU time of a batch of edits and of one of questions (of the thread's own, and of the whole
process for both). In the end every acknowledged edit has to be there, in the file and in memory.
DIR/results.json holds the rows.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from liveedit_jax.backbones import Backbone
from liveedit_jax.cache import keep_compiled
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.editor.repository import alive
from liveedit_jax.model_io.model import Model
from liveedit_jax.presets import preset
from liveedit_jax.session import EditingSession, OpenModel, open_editor

BATCH_N = 16
PICTURES_N = 64
QUARTERS_N = 4


def make_model() -> OpenModel:
    """Make a model with random weights: `tiny`, but narrow."""
    chosen = preset("tiny")
    narrow = replace(
        chosen.backbone,
        vision=replace(chosen.backbone.vision, width=24, layers_n=3, heads_n=2, mlp_width=32),
        decoder=replace(
            chosen.backbone.decoder, width=32, layers_n=4, heads_n=2, kv_heads_n=1, head_width=16,
            mlp_width=32,
        ),
    )  # fmt: skip
    cfg = replace(chosen.editor, module_width=16, heads_n=2, rank=2)
    parts = Model(
        replace(chosen, backbone=narrow, editor=cfg),
        "soak",
        jax.jit(Backbone(narrow).init)(jax.random.key(0)),
        init_params(jax.random.key(1), cfg, narrow.width, narrow.vision_n),
        mojiedit_tokenizer(narrow.decoder.vocab_n),
        *("b", "e", "t"),
        Path("soak"),
    )
    return OpenModel(parts, "soak")


def draw_pictures(n: int) -> list[bytes]:
    """Draw pictures of noise."""
    rng, pictures = np.random.default_rng(0), []
    for _ in range(n):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(out, "PNG")
        pictures.append(out.getvalue())
    return pictures


def resident_mb() -> float:
    """Read how much memory this process has now."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmRSS"))


def in_memory(editor: EditingSession) -> dict[int, bytes]:
    """Read which edits' experts are in memory, and each one's key."""
    repo = editor.live.repo
    rows = np.flatnonzero(np.asarray(alive(repo)))
    ids, keys = np.asarray(repo.edit_id)[rows], np.asarray(repo.vision_key.value)[rows]
    return {int(i): key.tobytes() for i, key in zip(ids, keys, strict=True)}


def soak(model: OpenModel, path: Path, edits_n: int, subjects_n: int) -> list[dict[str, float]]:
    """Edit and ask; returns a row for each fourth of the way.

    Args:
        model: an open model with an editor.
        path: a new repository.
        edits_n: how many edits and how many questions, a multiple of 64.
        subjects_n: how many of them are about something new.

    Raises:
        RuntimeError: an edit was lost, or one of the threads failed.
    """
    pictures = draw_pictures(PICTURES_N)
    wanted: dict[tuple[int, str], tuple[int, str]] = {}  # subject -> id and target
    spent: dict[str, list[float]] = {"edit": [], "ask": []}
    errors: list[BaseException] = []
    each_n = edits_n // QUARTERS_N // BATCH_N
    if each_n < 1 or edits_n % (QUARTERS_N * BATCH_N):
        raise ValueError(f"{edits_n} edits are no multiple of {QUARTERS_N * BATCH_N}")

    def subjects(at: int) -> Iterator[tuple[int, str]]:
        for i in range(at * BATCH_N, (at + 1) * BATCH_N):
            subject = i % subjects_n
            yield subject % PICTURES_N, f"what is {subject // PICTURES_N}?"

    with open_editor(model, path, write=True, refine_n=0) as editor:

        def edit(at: int) -> None:
            chosen = [(*each, f"a{at}") for each in subjects(at)]
            rows = [(pictures[k], prompt, target) for k, prompt, target in chosen]
            for result, (k, prompt, target) in zip(
                editor.edit_many(rows, check=False), chosen, strict=True
            ):
                wanted[k, prompt] = result.id, target

        def ask(at: int) -> None:
            rows = [(pictures[k], prompt) for k, prompt in subjects(7 * at)]
            for answer in editor.ask_many(rows, 1):
                if answer.live_n and not answer.nearest:
                    raise RuntimeError("no edit is near a question")

        def repeat(name: str, run, start: int) -> None:
            try:
                for at in range(start, start + each_n):
                    begin = time.thread_time()
                    run(at)
                    spent[name].append(time.thread_time() - begin)
                    bar.update(BATCH_N)
            except BaseException as error:
                errors.append(error)

        found = []
        with tqdm(total=2 * edits_n, desc="soak", disable=None) as bar:
            for quarter in range(QUARTERS_N):
                begin, start = time.process_time(), quarter * each_n
                threads = [
                    threading.Thread(target=repeat, args=(name, run, start))
                    for name, run in (("edit", edit), ("ask", ask))
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                if errors:
                    raise RuntimeError(f"a thread failed: {errors[0]!r}") from errors[0]
                row = {"rss_mb": resident_mb(), "live": len(editor.edits())}
                row["capacity"] = editor.live.repo.born.shape[0]
                row["cpu_ms"] = 1e3 * (time.process_time() - begin) / each_n
                for name, times in spent.items():
                    row[f"{name}_cpu_ms"] = 1e3 * statistics.median(times)
                    row[f"{name}_p99_cpu_ms"] = 1e3 * sorted(times)[int(0.99 * len(times))]
                    times.clear()
                found.append(row)
        memory = in_memory(editor)
    with open_editor(model, path) as editor:
        kept = {edit.id: edit.request.target for edit in editor.edits()}
        if kept != dict(wanted.values()):
            raise RuntimeError("the file does not hold the acknowledged edits")
        if in_memory(editor) != memory or sorted(memory) != sorted(kept):
            raise RuntimeError("memory differed from the file")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=24_000)
    parser.add_argument("--subjects", type=int, default=2_000)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    keep_compiled()
    path = args.out / "repository"
    path.unlink(missing_ok=True)
    rows = soak(make_model(), path, args.edits, args.subjects)
    result = {"edits": args.edits, "subjects": args.subjects, "file_mb": path.stat().st_size / 1e6}
    (args.out / "results.json").write_text(json.dumps(result | {"quarters": rows}, indent=1) + "\n")
    for row in rows:
        print(json.dumps({name: round(value, 2) for name, value in row.items()}))


if __name__ == "__main__":
    main()
