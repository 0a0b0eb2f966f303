"""Retention: how much of its knowledge about entities that no edit is about the model keeps.

The questions of `data.stream.retention_questions` are asked in the state after the first chunk of
every mark. An answer is right if each of its tokens is the most likely one under teacher forcing.
Retention is the share of the unedited model's right answers that are still right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from liveedit_jax.data.stream import retention_questions
from liveedit_jax.editors import State
from liveedit_jax.evaluation.blocks import PreparedBlock, ask_teacher_forced, case_line, make_block
from liveedit_jax.evaluation.probes import Case, Probe
from liveedit_jax.evaluation.subject import Subject, encode

QUESTIONS_N = 200  # with a picture, and as many without
TEXTS = ("generated", "before_generated")  # left out of the lines: nothing is generated


def retention_case(image_size: int) -> Case:
    """Return the questions as a case without an edit."""
    probes = []
    for known in retention_questions(QUESTIONS_N, image_size=image_size):
        metric = "text_locality" if known.image is None else "image_locality"
        probes.append(Probe(metric, known.question, known.answer, known.image))
    return Case("", "", tuple(probes))


def prepare_retention(subject: Subject, case: Case) -> PreparedBlock:
    """Encode the questions and answer them with the unedited model."""
    block = make_block([case], 0)
    return PreparedBlock(block, encode(subject, block.probes), [""] * len(block.probes), None)


def retention_lines(
    subject: Subject, state: State, prepared: PreparedBlock, mark: int
) -> list[dict]:
    """Build the lines of `retention.jsonl` at a mark; a routed state is asked as of chunk 0."""
    rows = np.arange(len(prepared.block.probes))
    answers, _ = ask_teacher_forced(
        subject, state, prepared.block, prepared.encoded, rows, np.zeros_like(rows)
    )
    lines = [case_line(mark, 0, prepared, answers, int(i)) for i in rows]
    return [{k: v for k, v in line.items() if k not in TEXTS} for line in lines]


def retention_figures(lines: Iterable[dict]) -> dict[int, dict]:
    """Compute by mark the share of right answers that are still right, in percent.

    Shares are None where nothing was right before; `retention_n` is how many answers were.
    """
    kept: dict[int, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        of = kept[line["mark"]]["with" if line["probe"] == "image_locality" else "without"]
        if line["before_ids"] == line["target_ids"]:
            of.append(line["after_ids"] == line["target_ids"])

    def share(of: list[bool]) -> float | None:
        return 100 * float(np.mean(of)) if of else None

    return {
        mark: {
            "retention": share(of["with"] + of["without"]),
            "retention_with_picture": share(of["with"]),
            "retention_without_picture": share(of["without"]),
            "retention_n": len(of["with"]) + len(of["without"]),
        }
        for mark, of in kept.items()
    }
