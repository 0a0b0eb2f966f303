"""Teacher-forced figures at one mark, without generation: quick enough for tuning on dev."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from liveedit_jax.evaluation.blocks import Block, ask_teacher_forced, make_block
from liveedit_jax.evaluation.engine import make_edits
from liveedit_jax.evaluation.metrics import EDIT, average_members, is_targeted, token_accuracy
from liveedit_jax.evaluation.probes import Case
from liveedit_jax.evaluation.subject import EncodedRows, ModelParts, PictureCache, encode

BATCH_N, BLOCK_N = 32, 128


def row_accuracies(
    block: Block, encoded: EncodedRows, after: np.ndarray
) -> Iterator[tuple[str, float]]:
    """Yield the metric and the token accuracy of every row."""
    for i, probe in enumerate(block.probes):
        answer, k = encoded.rows.answer[i], len(encoded.rows.answer[i])
        targeted = is_targeted(probe.metric)
        reference = answer if targeted else encoded.before[i, :k].tolist()
        yield probe.metric, token_accuracy(after[i, :k].tolist(), reference)


def quick_figures(
    parts: ModelParts, cases: Sequence[Case], features: PictureCache
) -> dict[str, float]:
    """Make all edits of `cases` in one state, and ask all their probes under teacher forcing.

    Args:
        parts: the model and the editor.
        cases: the stream; its length is the mark.
        features: vision features by picture; read, and new ones are added.

    Returns:
        Token accuracy in percent by metric, the five metrics' `average`, `unedited/reliability`,
        `exact/...` (all tokens and EOS right, in percent) of metrics that have a target, and, where
        the editor routes, the mean number of hits `hits/...`.
    """
    subject, block, n = parts.subject(cases, BATCH_N, features), make_block(cases, 0), len(cases)
    state, _ = make_edits(subject, [case.edit for case in cases], n, BLOCK_N)
    encoded, rows = encode(subject, block.probes), np.arange(len(block.probes))
    answers, _ = ask_teacher_forced(subject, state, block, encoded, rows, np.full(len(rows), n))
    sums: dict[str, list[float]] = defaultdict(list)
    for i, (kind, value) in enumerate(row_accuracies(block, encoded, answers.after)):
        answer, k = encoded.rows.answer[i], len(encoded.rows.answer[i])
        sums[kind].append(value)
        if answers.route is not None:
            sums[f"hits/{kind}"].append(float(answers.route.hit_n[i]))
        if is_targeted(kind):
            path = [*answer, parts.tokenizer.eos_id]
            sums[f"exact/{kind}"].append(answers.after[i, : k + 1].tolist() == path)
        if kind == EDIT:
            before = encoded.before[i, :k].tolist()
            sums["unedited/reliability"].append(token_accuracy(before, answer))
    figures = {
        name: float(np.mean(values)) * (1 if name.startswith("hits/") else 100)
        for name, values in sums.items()
    }
    figures["average"] = float(np.mean([figures[name] for name in average_members("average")]))
    return figures
