"""Free generation of an evaluation: only what teacher forcing has not already decided.

If the most likely token at every answer position, and EOS after them, is the target's under teacher
forcing, then greedy decoding walks the very same path: its first token is the target's first, so
its second is decided on the same prefix, and so on by induction. Only the others are decoded, and
with edits only where an editor routes. Of any other, one pass along the text that is compared with
(the target, or what the unedited model says) tells whether greedy decoding gives exactly that text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from liveedit_jax import editors
from liveedit_jax.backbones.generation import generate
from liveedit_jax.editors import State
from liveedit_jax.evaluation.layout import Rows, along, by_width, most_n, padded, take_prompt
from liveedit_jax.evaluation.probes import Probe, image_key
from liveedit_jax.evaluation.subject import (
    Encoded,
    Subject,
    answers,
    encode_rows,
    narrow,
    vision_features,
)
from liveedit_jax.types import Route

CUT = "…"  # ends a generation that left its reference here and was not followed further


def decided(rows: Rows, ids: np.ndarray, i: int, eos_id: int) -> bool:
    """Tell whether teacher forcing says that greedy decoding of row i gives exactly its target."""
    path = [*rows.answer[i], eos_id]
    return rows.same_prompt[i] and ids[i, : len(path)].tolist() == path


class Paths(NamedTuple):
    """The texts that free generation of a block's rows is compared with."""

    ids: list[list[int]]  # of each row, up to and with EOS
    place: dict[int, int]  # row -> its row in `encoded`; the others' path is their target
    encoded: Encoded  # prompts with their paths


@dataclass(frozen=True, eq=False)
class Decoder:
    """Batched greedy decoding; `known` remembers unedited generations, which many probes share."""

    subject: Subject
    known: dict[tuple, list[int]] = field(default_factory=dict)

    @property
    def eos_id(self) -> int:
        """Name the token that ends a generation."""
        return self.subject.tokenizer.eos_id

    def text(self, ids: Sequence[int], answer_n: int) -> str:
        """Read at most 2A + 8 generated tokens."""
        return self.subject.tokenizer.decode(ids[: most_n(answer_n)]).strip()

    def decode(
        self,
        rows: Rows,
        probes: Sequence[Probe],
        chosen: Sequence[int],
        plan_of: Callable[[np.ndarray], Any] | None = None,
    ) -> dict[int, list[int]]:
        """Generate ids for the chosen rows; `plan_of(rows)` is a batch's plan, None: no edits."""
        subject, out = self.subject, {}
        batch_n = subject.shapes.batch_n
        chosen = sorted(chosen, key=lambda i: len(rows.answer[i]))  # alike lengths end together
        for start in range(0, len(chosen), batch_n):
            group = chosen[start : start + batch_n]
            at = padded(group, batch_n)
            shown = vision_features(subject, [probes[i] for i in at])
            ids = generate(
                subject.backbone,
                subject.params["backbone"],
                take_prompt(rows, at),
                subject.shapes.steps_n,
                None if plan_of is None else plan_of(at),
                None if plan_of is None else subject.editor.add,
                most_n(len(rows.answer[group[-1]])),
                features=np.stack(shown),
            )
            ids = np.asarray(ids)
            out |= {int(i): ids[b].tolist() for b, i in enumerate(group)}
        return out

    def unedited(self, encoded: Encoded, probes: Sequence[Probe]) -> list[list[int]]:
        """Generate ids for every row by the unedited model."""
        rows = encoded.rows
        keys = [
            (p.prompt, image_key(p.image), len(answer))
            for p, answer in zip(probes, rows.answer, strict=True)
        ]
        todo, queued = [], set()
        for i, key in enumerate(keys):
            if key in self.known or key in queued:
                continue
            if decided(rows, encoded.before, i, self.eos_id):
                self.known[key] = [*rows.answer[i], self.eos_id]
            else:
                todo.append(i)
                queued.add(key)
        for i, ids in self.decode(rows, probes, todo).items():
            self.known[keys[i]] = ids
        return [self.known[key] for key in keys]

    def decode_routed(
        self,
        state: State,
        encoded: Encoded,
        probes: Sequence[Probe],
        found: Route,
        after: np.ndarray,
        chosen: Sequence[int],
    ) -> dict[int, str]:
        """Generate text under routes, by row."""
        rows, eos_id = encoded.rows, self.eos_id
        ids = {i: [*rows.answer[i], eos_id] for i in chosen if decided(rows, after, i, eos_id)}

        def plan_of(at: np.ndarray, k: int) -> Any:
            return editors.plan(*self.subject.model, state, narrow(found, at, k))

        for some, k in by_width(found, [i for i in chosen if i not in ids]):
            ids |= self.decode(rows, probes, some, partial(plan_of, k=k))
        return {i: self.text(made, len(rows.answer[i])) for i, made in ids.items()}

    def paths(
        self,
        rows: Rows,
        probes: Sequence[Probe],
        targeted: Sequence[bool],
        unedited: Sequence[list[int]],
    ) -> Paths:
        """Lay out what rows are compared with, ready to be walked along in any state.

        Args:
            rows: of a block.
            probes: the same.
            targeted: of each, whether it is compared with its target (or what is unedited).
            unedited: what the unedited model generates.
        """
        paths = []
        for answer, ids, by_target in zip(rows.answer, unedited, targeted, strict=True):
            ids = [*answer, self.eos_id] if by_target else ids[: most_n(len(answer))]
            paths.append(ids[: ids.index(self.eos_id) + 1] if self.eos_id in ids else ids)
        far = [
            i for i, path in enumerate(paths)
            if not rows.same_prompt[i] or path != [*rows.answer[i], self.eos_id]
        ]  # fmt: skip
        longer = along(rows, far, [paths[i] for i in far], self.subject.shapes)
        subject = self.subject.in_one_length(longer.token.shape[1])
        encoded = encode_rows(subject, longer, [probes[i] for i in far])
        return Paths(paths, {i: n for n, i in enumerate(far)}, encoded)

    def walk(
        self, state: State, paths: Paths, after: np.ndarray, chosen: Sequence[int]
    ) -> dict[int, str]:
        """Tell free generation as far as the paths go, CUT where it goes another way, by row.

        Args:
            state: after some edits.
            paths: of the block.
            after: its teacher-forced answers in that state.
            chosen: its rows that are asked.
        """
        subject = self.subject.in_one_length(paths.encoded.rows.token.shape[1])
        far = [i for i in chosen if i in paths.place]
        ids = answers(subject, state, paths.encoded, [paths.place[i] for i in far])
        said = dict(zip(far, ids, strict=True))
        return {i: self._text_along(paths.ids[i], said.get(i, after[i]).tolist()) for i in chosen}

    def _text_along(self, path: list[int], ids: list[int]) -> str:
        decode = self.subject.tokenizer.decode
        left = next((a for a, p in enumerate(path) if p != ids[a]), None)
        if left is None:
            return decode(path).strip()
        if ids[left] == self.eos_id:
            return decode(path[:left]).strip()
        return decode([*path[:left], ids[left]]).strip() + CUT
