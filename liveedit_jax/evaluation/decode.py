"""Free generation of an evaluation, decoding as little as possible.

If under teacher forcing the most likely token is the target's at every answer position, and EOS
after them, then greedy decoding generates exactly the target: its first token is the target's
first, so its second is predicted from the same prefix, and so on. Such rows need no decoding.

The others are decoded token by token for the unedited model, and for editors that route. For all
other editors one teacher-forced pass along the reference (the target, or the unedited model's own
generation) tells whether greedy decoding gives exactly that reference, which is all that exact
match asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from liveedit_jax import editors
from liveedit_jax.backbones.generation import generate
from liveedit_jax.editors import State, is_routed
from liveedit_jax.evaluation.batching import (
    ProbeRows,
    RowNumbers,
    group_by_width,
    max_generated_n,
    pad_group,
    replace_answers,
    take_prompt,
)
from liveedit_jax.evaluation.probes import Probe, image_key
from liveedit_jax.evaluation.subject import (
    EncodedRows,
    Subject,
    encode_rows,
    predict_answers,
    take_routes,
    vision_features,
)
from liveedit_jax.types import Route

CUT = "…"  # ends a generation that departs from its reference here and was not followed further


def decodes_to_target(rows: ProbeRows, ids: np.ndarray, i: int, eos_id: int) -> bool:
    """Return whether the teacher-forced `ids` prove that row i greedily decodes to its target."""
    path = [*rows.answer[i], eos_id]
    return rows.same_prompt[i] and ids[i, : len(path)].tolist() == path


class ReferencePaths(NamedTuple):
    """The reference token ids that the free generation of a block's rows is compared with."""

    ids: list[list[int]]  # of each row, up to and including EOS
    place: dict[int, int]  # row -> its row in `encoded`; all others' reference is their target
    encoded: EncodedRows  # prompts followed by their references


@dataclass(frozen=True, eq=False)
class Decoder:
    """Batched greedy decoding; `known` caches unedited generations, which many probes share."""

    subject: Subject
    known: dict[tuple, list[int]] = field(default_factory=dict)

    @property
    def eos_id(self) -> int:
        """Return the id of the token that ends a generation."""
        return self.subject.tokenizer.eos_id

    def detokenise(self, ids: Sequence[int], answer_n: int) -> str:
        """Turn at most 2A + 8 generated ids into text, for a target of A = `answer_n` tokens."""
        return self.subject.tokenizer.decode(ids[: max_generated_n(answer_n)]).strip()

    def decode(
        self,
        rows: ProbeRows,
        probes: Sequence[Probe],
        chosen: RowNumbers,
        plan_of: Callable[[np.ndarray], Any] | None = None,
    ) -> dict[int, list[int]]:
        """Generate ids for the chosen rows; `plan_of(rows)` gives a batch's edits (None: none)."""
        subject, batch_n = self.subject, self.subject.shapes.batch_n
        editor = subject.editor
        intervene = editor.add if plan_of is not None and is_routed(editor) else None
        out: dict[int, list[int]] = {}
        order = sorted(chosen, key=lambda i: len(rows.answer[i]))  # alike lengths end together
        for start in range(0, len(order), batch_n):
            group = order[start : start + batch_n]
            at = pad_group(group, batch_n)
            shown = vision_features(subject, [probes[i] for i in at])
            ids = generate(
                subject.backbone,
                subject.params["backbone"],
                take_prompt(rows, at),
                subject.shapes.steps_n,
                None if plan_of is None else plan_of(at),
                intervene,
                max_generated_n(len(rows.answer[group[-1]])),
                features=np.stack(shown),
            )
            ids = np.asarray(ids)
            out |= {int(i): ids[b].tolist() for b, i in enumerate(group)}
        return out

    def decode_unedited(self, encoded: EncodedRows, probes: Sequence[Probe]) -> list[list[int]]:
        """Generate ids for every row with the unedited model."""
        rows = encoded.rows
        keys = [
            (p.prompt, image_key(p.image), len(answer))
            for p, answer in zip(probes, rows.answer, strict=True)
        ]
        todo, queued = [], set()
        for i, key in enumerate(keys):
            if key in self.known or key in queued:
                continue
            if decodes_to_target(rows, encoded.before, i, self.eos_id):
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
        encoded: EncodedRows,
        probes: Sequence[Probe],
        found: Route,
        after: np.ndarray,
        chosen: Sequence[int],
    ) -> dict[int, str]:
        """Generate the texts of the chosen rows under their routes; returns them by row."""
        rows, eos_id = encoded.rows, self.eos_id
        sure = [i for i in chosen if decodes_to_target(rows, after, i, eos_id)]
        ids = {i: [*rows.answer[i], eos_id] for i in sure}

        def plan_of(at: np.ndarray, k: int) -> Any:
            return editors.plan(*self.subject.model, state, take_routes(found, at, k))

        for some, k in group_by_width(found, [i for i in chosen if i not in ids]):
            ids |= self.decode(rows, probes, some, partial(plan_of, k=k))
        return {i: self.detokenise(made, len(rows.answer[i])) for i, made in ids.items()}

    def encode_references(
        self,
        rows: ProbeRows,
        probes: Sequence[Probe],
        targeted: Sequence[bool],
        unedited: Sequence[list[int]],
    ) -> ReferencePaths:
        """Encode the reference of every row, to be compared with the predictions of any state.

        Args:
            rows: the block's rows.
            probes: their probes.
            targeted: whether a row's reference is its target (else the unedited generation).
            unedited: ids that the unedited model generates.
        """
        paths = []
        for answer, ids, by_target in zip(rows.answer, unedited, targeted, strict=True):
            ids = [*answer, self.eos_id] if by_target else ids[: max_generated_n(len(answer))]
            paths.append(ids[: ids.index(self.eos_id) + 1] if self.eos_id in ids else ids)
        far = [
            i for i, path in enumerate(paths)
            if not rows.same_prompt[i] or path != [*rows.answer[i], self.eos_id]
        ]  # fmt: skip
        longer = replace_answers(rows, far, [paths[i] for i in far], self.subject.shapes)
        subject = self.subject.with_one_length(longer.token.shape[1])
        encoded = encode_rows(subject, longer, [probes[i] for i in far])
        return ReferencePaths(paths, {i: n for n, i in enumerate(far)}, encoded)

    def decode_along(
        self, state: State, paths: ReferencePaths, after: np.ndarray, chosen: Sequence[int]
    ) -> dict[int, str]:
        """Return the free generation of the chosen rows, as far as it follows the references.

        Where greedy decoding departs from a reference, the text ends with CUT.

        Args:
            state: the state after some edits.
            paths: the block's references.
            after: its teacher-forced answers in that state, int32[X, A + 1].
            chosen: the rows.
        """
        subject = self.subject.with_one_length(paths.encoded.rows.token.shape[1])
        far = [i for i in chosen if i in paths.place]
        ids = predict_answers(subject, state, paths.encoded, [paths.place[i] for i in far])
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
