"""Blocks of cases, and how their probes are answered in a given state of the editor.

Every probe is answered twice: under teacher forcing, and by free (greedy) generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from liveedit_jax.editors import State
from liveedit_jax.evaluation.decode import Decoder, Paths
from liveedit_jax.evaluation.metrics import EDIT, PLACE, is_targeted
from liveedit_jax.evaluation.probes import Case, Probe
from liveedit_jax.evaluation.subject import Encoded, Subject, answers, encode, find_routes
from liveedit_jax.types import Route


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive cases with their probes as X rows, the edit requests first."""

    first: int  # number of the first case
    cases: Sequence[Case]
    case: np.ndarray  # int64[X], the case of each row
    nth: list[int]  # which of its case's probes of one metric each row is
    probes: list[Probe]

    def in_order(self, chosen: Sequence[int]) -> list[int]:
        """Sort rows by case and, within a case, in the order of METRICS."""
        return sorted(chosen, key=lambda i: (self.case[i], PLACE[self.probes[i].metric]))

    def several(self, i: int) -> dict[str, int]:
        """Return the field `nth` of row i's line; empty for the first probe of a metric."""
        return {"nth": self.nth[i]} if self.nth[i] else {}

    @property
    def shown(self) -> np.ndarray:
        """Return the mask of the rows that have a picture, bool[X]."""
        return np.asarray([probe.image is not None for probe in self.probes])


def block_of(cases: Sequence[Case], first: int) -> Block:
    """Make a block of consecutive cases; `first` is the number of the first."""
    order, nth = [], {}
    for c, case in enumerate(cases):
        for probe in sorted(case.probes, key=lambda probe: PLACE[probe.metric]):
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


class Asked(NamedTuple):
    """A block with everything about it that no edit changes; computed once for all marks."""

    block: Block
    encoded: Encoded
    before_text: list[str]  # the unedited model's free generation
    paths: Paths | None  # reference texts that generation is compared with; None: it is routed


def ask_unedited(decoder: Decoder, block: Block) -> Asked:
    """Encode a block's rows and answer them with the unedited model."""
    encoded = encode(decoder.subject, block.probes)
    rows, ids = encoded.rows, decoder.unedited(encoded, block.probes)
    text = [decoder.text(said, len(answer)) for said, answer in zip(ids, rows.answer, strict=True)]
    if decoder.subject.editor.routes:
        return Asked(block, encoded, text, None)
    targeted = [is_targeted(probe.metric) for probe in block.probes]
    return Asked(block, encoded, text, decoder.paths(rows, block.probes, targeted, ids))


class Said(NamedTuple):
    """A block's answers in one state; rows that were not asked keep their unedited answers."""

    after: np.ndarray  # int32[X, A + 1], the most likely tokens under teacher forcing
    text: list[str]  # free generation
    found: Route | None  # where the editor routes
    margin: np.ndarray  # f32[X], of the routes


def ask_forced(
    subject: Subject,
    state: State,
    block: Block,
    encoded: Encoded,
    chosen: np.ndarray,
    at: np.ndarray,
    earlier: Sequence[Said] = (),
) -> tuple[Said, list[int]]:
    """Answer some rows of a block under teacher forcing.

    Args:
        subject: the editor and the model.
        state: the state after the edits.
        block: the block.
        encoded: its rows, encoded.
        chosen: the rows to answer.
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
        shown = chosen[block.shown[chosen]]
        found, margin = find_routes(subject, state, encoded.query, at, shown)
        todo = []
        for i in chosen[found.hit_n[chosen] > 0]:
            same = next((past for past in earlier if same_route(past.found, found, i)), None)
            if same is None:
                todo.append(int(i))
            else:
                after[i], text[i] = same.after[i], same.text[i]
    if todo:
        after[todo] = answers(subject, state, encoded, todo, found)
    return Said(after, text, found, margin), todo


def same_route(a: Route, b: Route, i: int) -> bool:
    """Return whether two routes of row i hit something and use the same edits, equally weighted."""
    return (
        a.hit_n[i] > 0
        and np.array_equal(a.slot[i], b.slot[i])
        and np.array_equal(a.weight[i], b.weight[i])
    )


def ask(
    decoder: Decoder,
    state: State,
    asked: Asked,
    chosen: np.ndarray,
    at: np.ndarray,
    earlier: Sequence[Said],
) -> Said:
    """Answer some rows of a block, teacher-forced and free; arguments as of `ask_forced`."""
    block, encoded = asked.block, asked.encoded
    said, todo = ask_forced(decoder.subject, state, block, encoded, chosen, at, earlier)
    if asked.paths is not None:
        made = decoder.walk(state, asked.paths, said.after, todo)
    else:
        made = decoder.decode_routed(state, encoded, block.probes, said.found, said.after, todo)
        missed = chosen[said.found.hit_n[chosen] == 0]
        made |= {int(i): asked.before_text[i] for i in missed}
    for i, text in made.items():
        said.text[i] = text
    return said


def case_line(mark: int, chunk: int, asked: Asked, said: Said, i: int) -> dict:
    """Build the line of `cases.jsonl` of row i; the fields come in the order of the file."""
    block, rows = asked.block, asked.encoded.rows
    case, probe = block.cases[block.case[i] - block.first], block.probes[i]
    answer = rows.answer[i]
    image = {} if probe.file is None else {"image": probe.file}
    margin = {"margin": float(said.margin[i])} if np.isfinite(said.margin[i]) else {}
    return {
        "mark": mark,
        "chunk": chunk,
        "case": int(block.case[i]),
        "entity": case.entity,
        "fact": case.fact,
        "probe": probe.metric,
        **block.several(i),
        "prompt": probe.prompt,
        **image,
        "target": probe.target,
        "target_ids": answer,
        "before_ids": asked.encoded.before[i, : len(answer)].tolist(),
        "after_ids": said.after[i, : len(answer)].tolist(),
        "generated": said.text[i],
        "before_generated": asked.before_text[i],
        "hit_n": 0 if said.found is None else int(said.found.hit_n[i]),
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
        **block.several(i),
        "experts": [[int(found.slot[i, k]), float(found.weight[i, k])] for k in used],
        "kept": float(found.kept[i]),
    }
