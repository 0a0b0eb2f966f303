"""Teacher-forced figures at one mark, without generation: what tuning on dev looks at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from liveedit_jax.editor import repository
from liveedit_jax.evaluation import protocol
from liveedit_jax.evaluation.lifelong import Parts
from liveedit_jax.evaluation.metrics import token_accuracy
from liveedit_jax.evaluation.predict import Subject
from liveedit_jax.evaluation.probes import EDIT, EDITED, METRICS, Case
from liveedit_jax.types import Repository, Route


def answers(
    subject: Subject, repo: Repository, encoded: protocol.Encoded, shown: np.ndarray
) -> tuple[np.ndarray, Route]:
    """Teacher-forced answers int32[X, A + 1] of all rows with `repo`'s edits, and their routes."""
    found, _ = protocol.find_routes(subject, repo, encoded.query, None, shown)
    after, todo = encoded.before.copy(), np.flatnonzero(found.hit_n > 0)
    if len(todo):
        after[todo] = protocol.edited(subject, repo, encoded, found, todo)
    return after, found


def accuracies(
    block: protocol.Block, encoded: protocol.Encoded, after: np.ndarray
) -> Iterator[tuple[str, float]]:
    """The kind and token accuracy of every row."""
    for i, kind in enumerate(block.kind):
        answer, k = encoded.rows.answer[i], len(encoded.rows.answer[i])
        reference = answer if kind in EDITED else encoded.before[i, :k].tolist()
        yield kind, token_accuracy(after[i, :k].tolist(), reference)


def quick_figures(parts: Parts, cases: Sequence[Case], known: protocol.Known) -> dict[str, float]:
    """All edits of `cases` into one repository, then all their probes; percentages and hits.

    Args:
        parts: the model.
        cases: the stream; its length is the mark.
        known: vision features by picture, read and added to.

    Returns:
        Token accuracy by probe, their `average` over the five metrics, `exact/...` (teacher-forced,
        all tokens and EOS right, of the edited kinds) and mean `hits/...` by probe.
    """
    subject = parts.subject(cases, 32)
    block = protocol.block_of(cases, 0)
    encoded = protocol.encode_probes(subject, block.probes, known)
    n = len(cases)
    expert = protocol.make_experts(subject, encoded, range(n))
    repo = repository.init_repository(parts.cfg, parts.backbone.cfg.width, n)
    repo, _ = repository.add_edits(repo, expert, np.arange(n), np.ones(n, bool))
    shown = np.flatnonzero([probe.image is not None for probe in block.probes])
    after, found = answers(subject, repo, encoded, shown)
    sums = defaultdict(list)
    for i, (kind, value) in enumerate(accuracies(block, encoded, after)):
        answer, k = encoded.rows.answer[i], len(encoded.rows.answer[i])
        sums[kind].append(value)
        sums[f"hits/{kind}"].append(found.hit_n[i])
        if kind in EDITED:
            path = [*answer, parts.tokenizer.eos_id]
            sums[f"exact/{kind}"].append(after[i, : k + 1].tolist() == path)
        if kind == EDIT:
            before = encoded.before[i, :k].tolist()
            sums["unedited/reliability"].append(token_accuracy(before, answer))
    figures = {
        name: float(np.mean(values)) * (1 if name.startswith("hits/") else 100)
        for name, values in sums.items()
    }
    figures["average"] = float(np.mean([figures[metric] for metric in METRICS]))
    return figures
