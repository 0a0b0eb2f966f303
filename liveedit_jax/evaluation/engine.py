"""The lifelong protocol: the edits of a stream, and the probes asked after every mark.

At a mark of n edits the stream is cut into chunks of n. Each chunk starts from the unedited model,
makes its edits in order, and is then asked all of its probes. Whatever no edit changes about a
block of cases is computed once and serves every mark. Where an editor routes, one state holds all
edits and is viewed as the chunks of any mark; a probe that hits no edit keeps its unedited result,
and one whose route is the same as at an earlier mark keeps that mark's result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from liveedit_jax import editors
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.editors import State
from liveedit_jax.evaluation.asking import (
    Asked,
    ask,
    ask_unedited,
    block_of,
    case_line,
    route_line,
)
from liveedit_jax.evaluation.chunks import chunk_of, counted_n
from liveedit_jax.evaluation.costs import bytes_of, edit_costs, query_costs
from liveedit_jax.evaluation.decode import Decoder
from liveedit_jax.evaluation.probes import Case, Probe
from liveedit_jax.evaluation.retention import ask_retention, retention_lines
from liveedit_jax.evaluation.subject import Subject, begin_state, edit, requests

HIDDEN_BYTES = 4 * 2**30  # a block's encoded rows on the host take at most this much

Tick = Callable[[int], Any]


@dataclass(frozen=True)
class Plan:
    """The marks of an evaluation, and the sizes of its batches and blocks."""

    marks: tuple[int, ...]  # numbers of edits after which probes are asked, rising
    cases_n: int | None = None  # cases that smaller marks count; None: the whole stream
    batch_n: int = 32  # rows per batch
    block_n: int = 128  # at most so many cases are computed between two saves


def make_edits(
    subject: Subject,
    probes: Sequence[Probe],
    capacity: int,
    block_n: int,
    timed: Sequence[int] = (),
    tick: Tick = lambda n: None,
) -> tuple[State, dict[int, dict[str, float]]]:
    """Make edits in a fresh state.

    Args:
        subject: the editor and the model.
        probes: the requests, in order.
        capacity: the number of edits that the state has room for.
        block_n: requests to prepare at once, rounded up to whole batches of the editor.
        timed: numbers of edits at which the costs are measured.
        tick: called with the number of edits made since the last call.

    Returns:
        The state, and the costs by number of edits.
    """
    together, costs, n = subject.editor.together, {}, 0
    state, size = begin_state(subject, capacity), -(-block_n // together) * together
    for start in range(0, len(probes), size):
        for known, batch, more in requests(subject, probes[start : start + size]):
            n, last = n + more, probes[n + more - 1]
            if n in timed:
                costs[n] = edit_costs(subject, state, last, known, batch)
            state = edit(subject, state, known, batch)
            if n in timed:
                costs[n] |= query_costs(subject, state, last, n)
            jax.block_until_ready(state)
            tick(more)
    return state, costs


class Part(NamedTuple):
    """The lines of one block, or of the retention questions, at one mark; the unit of saving."""

    name: str
    lines: list[dict]  # of `cases.jsonl`, or of `retention.jsonl`
    routes: list[dict]  # of `routes.jsonl`


@dataclass(eq=False)
class Engine:
    """One run of an editor over a stream; `costs` is filled in for every mark."""

    subject: Subject
    cases: Sequence[Case]
    plan: Plan
    done: Callable[[str], bool] = lambda name: False  # whether a part was saved by an earlier run
    costs: dict[int, dict[str, float]] = field(default_factory=dict)  # by mark
    tick: Tick = lambda n: None  # called with the units of `work_n` done since the last call
    kept: Case | None = None  # questions asked after each mark's first chunk (see retention.py)
    _held: dict[int, tuple[int, State]] = field(default_factory=dict)  # mark -> chunk, its state

    def __post_init__(self):
        """List the parts that are not done yet."""
        cases_n, size = self.plan.cases_n or len(self.cases), self._block_n()
        parts = [
            (first, mark, min(size, counted_n(mark, cases_n) - first))
            for first in range(0, len(self.cases), size)
            for mark in self.plan.marks
            if first < counted_n(mark, cases_n)
        ]
        self.block_n = size
        self.todo = [part for part in parts if not self.done(_name(*part[:2]))]

    @property
    def work_n(self) -> int:
        """Count the edits to make and the cases to ask."""
        asked_n = sum(n for _, _, n in self.todo)
        if self.subject.editor.routes:
            return asked_n + (len(self.cases) if self.todo else 0)
        chunks = {(m, c // m) for first, m, n in self.todo for c in range(first, first + n)}
        return asked_n + sum(mark for mark, _ in chunks)

    def parts(self) -> Iterator[Part]:
        """Compute the parts that are not done yet, block by block and mark by mark."""
        decoder, marks = Decoder(self.subject), {}
        for first, mark, n in self.todo:
            marks.setdefault(first, []).append((mark, n))
        kept = None if self.kept is None else ask_retention(self.subject, self.kept)
        for first, counted in marks.items():
            block = block_of(self.cases[first : first + self.block_n], first)
            asked, earlier = ask_unedited(decoder, block), []
            for mark, n in counted:
                if first == 0 and kept is not None:
                    yield self._retained(kept, mark)
                lines, routes, chunk = [], [], chunk_of(block.case, mark)
                rows = np.flatnonzero(block.case < first + n)
                for state, chosen in self._states(mark, chunk, rows):
                    said = ask(decoder, state, asked, chosen, chunk, earlier)
                    earlier += [said] if said.found is not None else []
                    for i in block.in_order(chosen):
                        lines.append(case_line(mark, int(chunk[i]), asked, said, i))
                        if said.found is not None and said.found.hit_n[i] > 0:
                            routes.append(route_line(mark, block, said.found, i))
                    self.tick(len(np.unique(block.case[chosen])))
                yield Part(_name(first, mark), lines, routes)

    def _retained(self, kept: Asked, mark: int) -> Part:
        """Ask the retention questions after a mark's first chunk.

        It runs just before the block that begins with that chunk, which then finds its state held.
        """
        state = self._chunked(mark) if self.subject.editor.routes else self._chunk(mark, 0)
        lines = retention_lines(self.subject, state, kept, mark)
        return Part(f"retention_{mark:06d}", lines, [])

    def _states(
        self, mark: int, chunk: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[State, np.ndarray]]:
        """Yield each state that some of these rows are asked in, with those rows."""
        if self.subject.editor.routes:
            yield self._chunked(mark), rows
            return
        for own in np.unique(chunk[rows]).tolist():
            yield self._chunk(mark, own), rows[chunk[rows] == own]

    def _edited(self, cases: Sequence[Case], capacity: int, timed: Sequence[int]) -> State:
        probes = [case.edit for case in cases]
        timed = [mark for mark in timed if mark not in self.costs]
        state, costs = make_edits(self.subject, probes, capacity, self.block_n, timed, self.tick)
        self.costs |= costs
        return state

    def _chunked(self, mark: int) -> State:
        """Return the state of all edits (made once), viewed as chunks of this mark."""
        if 0 not in self._held:
            self._held[0] = 0, self._edited(self.cases, len(self.cases), self.plan.marks)
        if mark not in self._held:
            self._held[mark] = 0, self.subject.editor.chunked(self._held[0][1], mark)
        return self._held[mark][1]

    def _chunk(self, mark: int, own: int) -> State:
        """Return the state of one chunk; only the latest chunk of every mark is held."""
        if self._held.get(mark, (None,))[0] != own:
            cases = self.cases[own * mark : (own + 1) * mark]
            timed = (mark,) if own == 0 else ()
            self._held[mark] = own, self._edited(cases, max(self.plan.marks), timed)
        return self._held[mark][1]

    def _block_n(self) -> int:
        """Return the number of cases in a block: the plan's, or as many as fit HIDDEN_BYTES."""
        model, token = self.subject.model, np.zeros((1, self.subject.shapes.long_n), np.int32)
        image = jax.ShapeDtypeStruct((1, *self.subject.backbone.cfg.image_shape), np.float32)
        seen = jax.eval_shape(partial(editors.see, *model), image)
        batch = without_pixels(token, token.astype(np.int8))
        row_bytes = bytes_of(partial(editors.encode, *model), batch, seen)
        copies = 1 if self.subject.editor.routes else 2  # a row, and the same with its reference
        probes_n = max(len(case.probes) for case in self.cases)
        return max(min(self.plan.block_n, HIDDEN_BYTES // (copies * probes_n * row_bytes)), 1)


def _name(first: int, mark: int) -> str:
    return f"block_{mark:06d}_{first:06d}"
