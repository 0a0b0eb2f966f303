"""Blocks of cases, and how their probes are answered in a given state of the editor.

Every probe is answered twice: under teacher forcing, and by free (greedy) generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from liveedit_jax.editors import State
from liveedit_jax.evaluation.batching import RowNumbers
from liveedit_jax.evaluation.decode import Decoder, ReferencePaths
from liveedit_jax.evaluation.metrics import EDIT, ORDER, is_targeted
from liveedit_jax.evaluation.probes import Case, Probe, picture_sha256
from liveedit_jax.evaluation.subject import (
    EncodedRows,
    Subject,
    encode,
    find_routes,
    predict_answers,
)
from liveedit_jax.types import Route


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive cases with their probes as X rows, the edit requests first."""

    first: int  # number of the first case
    cases: Sequence[Case]
    case: np.ndarray  # int64[X], the case of each row
    nth: list[int]  # which of its case's probes of one metric each row is
    probes: list[Probe]

    def sort_by_case(self, chosen: RowNumbers) -> list[int]:
        """Sort rows by case and, within a case, in the order of METRICS."""
        return sorted(chosen, key=lambda i: (self.case[i], ORDER[self.probes[i].metric]))

    def nth_field(self, i: int) -> dict[str, int]:
        """Return the field `nth` of row i's line; empty for the first probe of a metric."""
        return {"nth": self.nth[i]} if self.nth[i] else {}

    @property
    def has_picture(self) -> np.ndarray:
        """Return the mask of the rows that have a picture, bool[X]."""
        return np.asarray([probe.image is not None for probe in self.probes])


def make_block(cases: Sequence[Case], first: int) -> Block:
    """Make a block of consecutive cases; `first` is the number of the first."""
    order: list[tuple[int, Probe, int]] = []
    nth: dict[tuple[int, str], int] = {}
    for c, case in enumerate(cases):
        for probe in sorted(case.probes, key=lambda probe: ORDER[probe.metric]):
            key = c, probe.metric
            nth[key] = nth.get(key, -1) + 1
            order.append((c, probe, nth[key]))
    order.sort(key=lambda row: row[1].metric != EDIT)
    return Block(
        first=first,
        cases=cases,
        case=np.asarray([first + c for c, _, _ in order]),
        nth=[n for _, _, n in order],
        probes=[probe for _, probe, _ in order],
    )


class PreparedBlock(NamedTuple):
    """A block with everything about it that no edit changes; computed once for all marks."""

    block: Block
    encoded: EncodedRows
    before_text: list[str]  # the unedited model's free generation
    references: ReferencePaths | None  # of the free generation; None: the editor routes


def prepare_block(decoder: Decoder, block: Block) -> PreparedBlock:
    """Encode a block's rows and answer them with the unedited model."""
    encoded = encode(decoder.subject, block.probes)
    rows, ids = encoded.rows, decoder.decode_unedited(encoded, block.probes)
    text = [
        decoder.detokenise(answers, len(answer))
        for answers, answer in zip(ids, rows.answer, strict=True)
    ]
    if decoder.subject.editor.routes:
        return PreparedBlock(block, encoded, text, None)
    targeted = [is_targeted(probe.metric) for probe in block.probes]
    references = decoder.encode_references(rows, block.probes, targeted, ids)
    return PreparedBlock(block, encoded, text, references)


class BlockAnswers(NamedTuple):
    """A block's answers in one state; rows that were not asked keep their unedited answers."""

    after: np.ndarray  # int32[X, A + 1], the most likely tokens under teacher forcing
    text: list[str]  # free generation
    route: Route | None  # None: the editor does not route
    margin: np.ndarray  # f32[X], of the routes


def ask_teacher_forced(
    subject: Subject,
    state: State,
    block: Block,
    encoded: EncodedRows,
    chosen: np.ndarray,
    at: np.ndarray,
    earlier: Sequence[BlockAnswers] = (),
) -> tuple[BlockAnswers, list[int]]:
    """Ask some rows of a block under teacher forcing.

    Args:
        subject: the editor and the model.
        state: the state after the edits.
        block: the block.
        encoded: its rows, encoded.
        chosen: the rows to ask.
        at: the moment each row is asked at, int[X] (its chunk where the state is cut into chunks);
            read only where the editor routes.
        earlier: the block's answers at smaller marks. Where a row's route is the same as in one of
            them, its answers are copied from there.

    Returns:
        The answers, and the rows whose free generation has still to be computed.
    """
    after, text = encoded.before.copy(), [""] * len(block.probes)
    found, margin, todo = None, np.full(len(at), -np.inf, np.float32), list(chosen)
    if subject.editor.routes:
        shown = chosen[block.has_picture[chosen]]
        found, margin = find_routes(subject, state, encoded.query, at, shown)
        todo = []
        for i in chosen[found.hit_n[chosen] > 0]:
            same = next((past for past in earlier if same_route(past.route, found, i)), None)
            if same is None:
                todo.append(int(i))
            else:
                after[i], text[i] = same.after[i], same.text[i]
    if todo:
        after[todo] = predict_answers(subject, state, encoded, todo, found)
    return BlockAnswers(after, text, found, margin), todo


def same_route(a: Route | None, b: Route, i: int) -> bool:
    """Return whether two routes of row i hit something and use the same edits, equally weighted."""
    return (
        a is not None
        and bool(a.hit_n[i] > 0)
        and np.array_equal(a.slot[i], b.slot[i])
        and np.array_equal(a.weight[i], b.weight[i])
    )


def ask(
    decoder: Decoder,
    state: State,
    prepared: PreparedBlock,
    chosen: np.ndarray,
    at: np.ndarray,
    earlier: Sequence[BlockAnswers],
) -> BlockAnswers:
    """Ask some rows, teacher-forced and free; the arguments are those of `ask_teacher_forced`."""
    block, encoded = prepared.block, prepared.encoded
    answers, todo = ask_teacher_forced(decoder.subject, state, block, encoded, chosen, at, earlier)
    if prepared.references is not None:
        made = decoder.decode_along(state, prepared.references, answers.after, todo)
    else:
        assert answers.route is not None
        made = decoder.decode_routed(
            state, encoded, block.probes, answers.route, answers.after, todo
        )
        missed = chosen[answers.route.hit_n[chosen] == 0]
        made |= {int(i): prepared.before_text[i] for i in missed}
    for i, text in made.items():
        answers.text[i] = text
    return answers


def case_line(
    mark: int, chunk: int, prepared: PreparedBlock, answers: BlockAnswers, i: int
) -> dict:
    """Build the line of `cases.jsonl` of row i; the fields come in the order of the file."""
    block, rows = prepared.block, prepared.encoded.rows
    case, probe = block.cases[block.case[i] - block.first], block.probes[i]
    answer = rows.answer[i]
    image = {}
    if probe.file is not None:
        image = {"image": probe.file, "image_sha256": picture_sha256(probe.image)}
    margin = {"margin": float(answers.margin[i])} if np.isfinite(answers.margin[i]) else {}
    return {
        "mark": mark,
        "chunk": chunk,
        "case": int(block.case[i]),
        "entity": case.entity,
        "fact": case.fact,
        "probe": probe.metric,
        **block.nth_field(i),
        "prompt": probe.prompt,
        **image,
        "target": probe.target,
        "target_ids": answer,
        "before_ids": prepared.encoded.before[i, : len(answer)].tolist(),
        "after_ids": answers.after[i, : len(answer)].tolist(),
        "generated": answers.text[i],
        "before_generated": prepared.before_text[i],
        "hit_n": 0 if answers.route is None else int(answers.route.hit_n[i]),
        **margin,
    }


def route_line(mark: int, block: Block, found: Route, i: int) -> dict:
    """Build the line of `routes.jsonl` of row i.

    It holds the experts that the probe used with their weights, strongest first, and the share of
    the total weight that they keep.
    """
    used = np.flatnonzero(found.weight[i] > 0)
    return {
        "mark": mark,
        "case": int(block.case[i]),
        "probe": block.probes[i].metric,
        **block.nth_field(i),
        "experts": [[int(found.slot[i, k]), float(found.weight[i, k])] for k in used],
        "kept": float(found.kept[i]),
    }
