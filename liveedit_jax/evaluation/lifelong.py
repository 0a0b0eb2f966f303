"""A whole lifelong evaluation, resumable: from cases to the files of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.editor import liveedit
from liveedit_jax.evaluation import protocol
from liveedit_jax.evaluation.carry_out import carry_out
from liveedit_jax.evaluation.chunks import with_chunks
from liveedit_jax.evaluation.decode import Decoder
from liveedit_jax.evaluation.layout import Rows, measure, pixels, take
from liveedit_jax.evaluation.predict import Subject
from liveedit_jax.evaluation.probes import EDIT, Case
from liveedit_jax.evaluation.run_folder import RunFolder
from liveedit_jax.evaluation.timing import fill
from liveedit_jax.evaluation.warm_up import warm_up
from liveedit_jax.types import Batch, Expert, Repository

HIDDEN_BYTES = 4 * 2**30  # of lower states that wait on the host


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and in which portions."""

    marks: tuple[int, ...]
    cases_n: int | None = None  # cases that marks below it count; None: the whole stream
    batch_n: int = 32
    block_n: int = 128  # cases between two savings


@dataclass(frozen=True, eq=False)
class Parts:
    """The model under evaluation; `editor` are trained editor weights."""

    backbone: Backbone
    cfg: EditorConfig
    weights: Any
    editor: Any
    tokenizer: Tokenizer

    def subject(self, cases: Sequence[Case], batch_n: int) -> Subject:
        """The model, its editor prepared, with the shapes that fit these cases."""
        shapes = measure(self.tokenizer, self.backbone.cfg, cases, batch_n)
        editor = jax.jit(liveedit.prepare, static_argnums=0)(self.cfg, self.editor)
        return Subject(self.backbone, self.cfg, self.weights, editor, self.tokenizer, shapes)


def block_n(subject: Subject, cases: Sequence[Case], most: int) -> int:
    """Cases of a block: `most`, or as many as have their lower states within HIDDEN_BYTES."""
    probes_n = max(len(case.probes) for case in cases)
    case_bytes = 4 * probes_n * subject.shapes.long_n * subject.backbone.cfg.width
    return max(min(most, HIDDEN_BYTES // case_bytes), 1)


def evaluate(
    parts: Parts,
    cases: Sequence[Case],
    plan: Plan,
    settings: dict,
    out: str | Path,
    begin: float,
    pictures: Path | None = None,
) -> dict:
    """Run LiveEdit's protocol (or the rest of it) and write every file of the run folder.

    Args:
        parts: the model.
        cases: the stream.
        plan: marks and portions.
        settings, out, begin, pictures: as `carry_out` takes them.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: bad marks, or `out` holds a run with other settings.
    """
    compute = partial(_compute, parts, cases, plan)
    return carry_out(compute, cases, plan.marks, settings, out, begin, pictures)


def _compute(parts: Parts, cases: Sequence[Case], plan: Plan, folder: RunFolder, spent) -> None:
    subject = parts.subject(cases, plan.batch_n)
    plan = replace(plan, block_n=block_n(subject, cases, plan.block_n))
    blocks = list(protocol.blocks(cases, plan.block_n))
    known: protocol.Known = {}
    # shares of the work, so that the bar's ETA means something
    total = len(cases) * (1 + 5 + 2 * len(plan.marks))
    bar = tqdm(total=total, desc="lifelong", unit_scale=True, dynamic_ncols=True)

    def save(name: str, value: Any, share: int) -> None:
        folder.write(name, value)
        folder.write("spent", {"seconds": spent()})
        bar.update(share)

    edits, experts = [], []
    for block in blocks:
        asked = [case.probes[EDIT] for case in block.cases]
        encoded = protocol.encode_probes(subject, asked, known)
        edits.append(encoded.rows)  # the lower states of all edits at once would not fit
        experts.append(protocol.make_experts(subject, encoded, range(len(asked))))
        bar.update(len(asked))
    expert = jax.tree.map(lambda *leaves: np.concatenate(leaves), *experts)
    del experts

    repo, literal = _repositories(subject, cases, expert, plan, folder, edits)
    warm_up(subject, repo)
    decoder = Decoder(subject, subject.weights, known)
    chunked: dict[int, Repository] = {}

    def repository_of(mark: int) -> tuple[Repository, bool]:
        if literal and mark == plan.marks[-1]:
            return repo, True
        if mark not in chunked:
            chunked[mark] = with_chunks(repo, mark)
        return chunked[mark], False

    for b, block in enumerate(blocks):
        share = len(block.cases) * (5 + 2 * len(plan.marks))
        if folder.has(f"block_{b:05d}"):
            bar.update(share)
            continue
        encoded = protocol.encode_probes(subject, block.probes, known)
        lines, fired = protocol.evaluate_block(
            subject,
            decoder,
            block,
            encoded,
            repository_of,
            plan.marks,
            plan.cases_n or len(cases),
        )
        save(f"block_{b:05d}", {"lines": lines, "routes": fired}, share)
    del chunked, repo
    bar.close()


def _repositories(
    subject: Subject,
    cases: Sequence[Case],
    expert: Expert,
    plan: Plan,
    folder: RunFolder,
    edits: Sequence[Rows],
) -> tuple[Repository, bool]:
    """The repository of all cases, and whether it is the largest mark's own (one chunk)."""
    largest = plan.marks[-1]

    def batch_of(i: int) -> Batch:
        rows = edits[i // plan.block_n]
        batch = take(rows, np.asarray([i % plan.block_n]), subject.shapes.long_n)
        image = pixels(subject.backbone.cfg, cases[i].probes[EDIT].image)[None]
        return batch.replace(image=image)

    times = folder.read("timing")
    literal = largest == len(cases)
    if times is None or literal:
        repo, measured = fill(subject, expert, largest, plan.marks, batch_of, times is None)
        if times is None:
            folder.write("timing", measured)
    if not literal:
        repo, _ = fill(subject, expert, len(cases), (), batch_of, False)
    return repo, literal
