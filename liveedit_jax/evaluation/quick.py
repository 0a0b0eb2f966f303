"""Teacher-forced figures at one mark, without generation: what tuning on dev looks at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from liveedit_jax.editor import repository
from liveedit_jax.evaluation import protocol
from liveedit_jax.evaluation.lifelong import Parts
from liveedit_jax.evaluation.metrics import token_accuracy
from liveedit_jax.evaluation.probes import EDIT, EDITED, METRICS, Case


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
    found = protocol.find_routes(subject, repo, encoded.query, None, shown)
    after, todo = encoded.before.copy(), np.flatnonzero(found.hit_n > 0)
    if len(todo):
        after[todo] = protocol.edited(subject, repo, encoded, found, todo)
    sums = defaultdict(list)
    for i, kind in enumerate(block.kind):
        answer, k = encoded.rows.answer[i], len(encoded.rows.answer[i])
        reference = answer if kind in EDITED else encoded.before[i, :k].tolist()
        sums[kind].append(token_accuracy(after[i, :k].tolist(), reference))
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
