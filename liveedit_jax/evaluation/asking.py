"""Blocks of cases, and how they are asked in any state: teacher-forced, free, and routed."""

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
    """Some consecutive cases and their probes, as rows: the edits themselves first."""

    first: int  # number of the first case
    cases: Sequence[Case]
    case: np.ndarray  # int64[X], the case of each row
    nth: list[int]  # which of its case's probes of one metric each row is
    probes: list[Probe]

    def in_order(self, chosen: Sequence[int]) -> list[int]:
        """Sort rows case by case."""
        return sorted(chosen, key=lambda i: (self.case[i], PLACE[self.probes[i].metric]))

    def several(self, i: int) -> dict[str, int]:
        """Give what a line says of a probe that is not the first of its metric."""
        return {"nth": self.nth[i]} if self.nth[i] else {}

    @property
    def shown(self) -> np.ndarray:
        """Tell which rows have a picture, bool[X]."""
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
    """A block, and all that no edit changes about it."""

    block: Block
    encoded: Encoded
    before_text: list[str]  # what the unedited model generates
    paths: Paths | None  # where free generation is walked, not run


def ask_unedited(decoder: Decoder, block: Block) -> Asked:
    """Ask the unedited model, and compute all else that no edit changes."""
    encoded = encode(decoder.subject, block.probes)
    rows, ids = encoded.rows, decoder.unedited(encoded, block.probes)
    text = [decoder.text(said, len(answer)) for said, answer in zip(ids, rows.answer, strict=True)]
    if decoder.subject.editor.routes:
        return Asked(block, encoded, text, None)
    targeted = [is_targeted(probe.metric) for probe in block.probes]
    return Asked(block, encoded, text, decoder.paths(rows, block.probes, targeted, ids))


class Said(NamedTuple):
    """A block's answers in a state; rows that were not asked have their unedited ones."""

    after: np.ndarray  # int32[X, A + 1], the most likely tokens
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
    """Ask under teacher forcing; also tell which rows may generate something new (no text yet).

    Args:
        subject: the editor.
        state: after the edits.
        block: the questions.
        encoded: the same.
        chosen: the rows that are asked.
        at: each row's moment, where the editor routes.
        earlier: what the block said in states before, to be said again under equal routes.
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
    """Tell whether row i uses the same edits with the same weights."""
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
    """Ask chosen rows of a block, forced and free; the arguments are those of `ask_forced`."""
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
    """Write a line of `cases.jsonl`, in the order of its fields."""
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
    """Write a line of `routes.jsonl`: whose edits a probe used, strongest first, and the share."""
    used = np.flatnonzero(found.weight[i] > 0)
    return {
        "mark": mark,
        "case": int(block.case[i]),
        "probe": block.probes[i].metric,
        **block.several(i),
        "experts": [[int(found.slot[i, k]), float(found.weight[i, k])] for k in used],
        "kept": float(found.kept[i]),
    }
