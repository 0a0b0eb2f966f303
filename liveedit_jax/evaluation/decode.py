"""Free generation of an evaluation: only what teacher forcing has not already decided.

If the most likely token at every answer position, and EOS after them, is the target's under teacher
forcing, then greedy decoding walks the very same path: its first token is the target's first, so
its second is decided on the same prefix, and so on by induction. Only the others are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from liveedit_jax.backbones.generation import generate
from liveedit_jax.editor.liveedit import AddExperts, Plan
from liveedit_jax.evaluation import predict
from liveedit_jax.evaluation.layout import Rows, by_width, most_n, padded, take_prompt
from liveedit_jax.evaluation.predict import Subject
from liveedit_jax.evaluation.probes import Probe
from liveedit_jax.types import Repository, Route


def decided(rows: Rows, ids: np.ndarray, i: int, eos_id: int) -> bool:
    """Teacher forcing says that greedy decoding of row i gives exactly its target."""
    answer = rows.answer[i]
    path = [*answer, eos_id]
    return rows.same_prompt[i] and ids[i, : len(path)].tolist() == path


@dataclass(frozen=True, eq=False)
class Decoder:
    """Batched greedy decoding; `known` remembers unedited generations, which many probes share."""

    subject: Subject
    weights: Any  # the backbone's: those of the subject, or fine-tuned ones
    seen: dict[bytes, np.ndarray]  # vision features by picture, read and added to
    known: dict[tuple, list[int]] = field(default_factory=dict)

    def text(self, ids: Sequence[int], answer_n: int) -> str:
        """What at most 2A + 8 generated tokens say."""
        return self.subject.tokenizer.decode(ids[: most_n(answer_n)]).strip()

    def decode(
        self, rows: Rows, probes: Sequence[Probe], chosen: Sequence[int], plan_of=None
    ) -> dict[int, list[int]]:
        """Generated ids of the chosen rows; `plan_of(rows)` is a batch's plan, None: no edits."""
        subject, out = self.subject, {}
        batch_n = subject.shapes.batch_n
        chosen = sorted(chosen, key=lambda i: len(rows.answer[i]))  # alike lengths end together
        for start in range(0, len(chosen), batch_n):
            group = chosen[start : start + batch_n]
            at = padded(group, batch_n)
            shown = predict.vision_features(subject, [probes[i].image for i in at], self.seen)
            ids = generate(
                subject.backbone,
                self.weights,
                take_prompt(rows, at),
                subject.shapes.steps_n,
                None if plan_of is None else plan_of(at),
                None if plan_of is None else AddExperts(subject.cfg),
                most_n(len(rows.answer[group[-1]])),
                features=np.stack(shown),
            )
            ids = np.asarray(ids)
            out |= {int(i): ids[b].tolist() for b, i in enumerate(group)}
        return out

    def unedited(self, rows: Rows, probes: Sequence[Probe], before: np.ndarray) -> list[str]:
        """The text that this decoder's weights generate for every row."""
        eos_id = self.subject.tokenizer.eos_id
        keys = [
            (p.prompt, predict.image_key(p.image), len(answer))
            for p, answer in zip(probes, rows.answer, strict=True)
        ]
        todo, queued = [], set()
        for i, key in enumerate(keys):
            if key in self.known or key in queued:
                continue
            if decided(rows, before, i, eos_id):
                self.known[key] = [*rows.answer[i], eos_id]
            else:
                todo.append(i)
                queued.add(key)
        for i, ids in self.decode(rows, probes, todo).items():
            self.known[keys[i]] = ids
        return [self.text(self.known[key], len(rows.answer[i])) for i, key in enumerate(keys)]

    def edited(
        self,
        rows: Rows,
        probes: Sequence[Probe],
        repo: Repository,
        found: Route,
        after: np.ndarray,
        chosen: Sequence[int],
    ) -> dict[int, str]:
        """The text generated under their routes, by row."""
        eos_id = self.subject.tokenizer.eos_id
        ids = {i: [*rows.answer[i], eos_id] for i in chosen if decided(rows, after, i, eos_id)}

        def plan_of(at: np.ndarray, k: int):
            down, up = predict.bodies(repo, found.slot[at, :k])
            return Plan(self.subject.editor.norm, found.weight[at, :k], down, up)

        for some, k in by_width(found, [i for i in chosen if i not in ids]):
            ids |= self.decode(rows, probes, some, partial(plan_of, k=k))
        return {i: self.text(made, len(rows.answer[i])) for i, made in ids.items()}
