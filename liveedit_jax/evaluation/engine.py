"""The lifelong protocol: the edits of a stream, and the probes asked after every mark.

At a mark of n edits the stream is cut into chunks of n. Each chunk starts from the unedited model,
makes its edits in order, and is then asked all of its probes. Whatever no edit changes about a
block of cases is computed once and serves every mark. Where an editor routes, one state holds all
edits and is viewed as the chunks of any mark; a probe that hits no edit keeps its unedited result,
and one whose route is the same as at an earlier mark keeps that mark's result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from liveedit_jax import editors
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.editors import State, is_routed
from liveedit_jax.evaluation.blocks import (
    BlockAnswers,
    PreparedBlock,
    ask,
    case_line,
    make_block,
    prepare_block,
    route_line,
)
from liveedit_jax.evaluation.chunks import chunk_of, count_cases
from liveedit_jax.evaluation.costs import bytes_of, edit_costs, query_costs
from liveedit_jax.evaluation.decode import Decoder
from liveedit_jax.evaluation.probes import Case, Probe
from liveedit_jax.evaluation.retention import prepare_retention, retention_lines
from liveedit_jax.evaluation.subject import Subject, edit, empty_state, prepare_requests

HIDDEN_BYTES = 4 * 2**30  # a block's encoded rows on the host take at most this much

Tick = Callable[[int], Any]


@dataclass(frozen=True)
class Schedule:
    """The marks of an evaluation, and the sizes of its batches and blocks."""

    marks: tuple[int, ...]  # numbers of edits after which probes are prepared, rising
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
    state, size = empty_state(subject, capacity), -(-block_n // together) * together
    for start in range(0, len(probes), size):
        for known, batch, more in prepare_requests(subject, probes[start : start + size]):
            n, last = n + more, probes[n + more - 1]
            if n in timed:
                costs[n] = edit_costs(subject, state, last, known, batch)
            state = edit(subject, state, known, batch)
            if n in timed:
                costs[n] |= query_costs(subject, state, last, n)
            jax.block_until_ready(state)
            tick(more)
    return state, costs


class RunPart(NamedTuple):
    """The lines of one block, or of the retention questions, at one mark; the unit of saving."""

    name: str
    lines: list[dict]  # of `cases.jsonl`, or of `retention.jsonl`
    routes: list[dict]  # of `routes.jsonl`


@dataclass(eq=False)
class Engine:
    """One run of an editor over a stream; `costs` is filled in for every mark."""

    subject: Subject
    cases: Sequence[Case]
    schedule: Schedule
    is_done: Callable[[str], bool] = lambda name: (
        False
    )  # whether a part was saved by an earlier run
    costs: dict[int, dict[str, float]] = field(default_factory=dict)  # by mark
    tick: Tick = lambda n: None  # called with the units of `work_n` done since the last call
    retention: Case | None = None  # asked after each mark's first chunk (see retention.py)
    _held: dict[int, tuple[int, State]] = field(default_factory=dict)  # mark -> chunk, its state

    def __post_init__(self):
        """List the parts that are not done yet."""
        cases_n, size = self.schedule.cases_n or len(self.cases), self._block_n()
        parts = [
            (first, mark, min(size, count_cases(mark, cases_n) - first))
            for first in range(0, len(self.cases), size)
            for mark in self.schedule.marks
            if first < count_cases(mark, cases_n)
        ]
        self.block_n = size
        self.todo = [part for part in parts if not self.is_done(_name(*part[:2]))]

    @property
    def work_n(self) -> int:
        """Count the edits to make and the cases to ask."""
        asked_n = sum(n for _, _, n in self.todo)
        if self.subject.editor.routes:
            return asked_n + (len(self.cases) if self.todo else 0)
        chunks = {(m, c // m) for first, m, n in self.todo for c in range(first, first + n)}
        return asked_n + sum(mark for mark, _ in chunks)

    def parts(self) -> Iterator[RunPart]:
        """Compute the parts that are not done yet, block by block and mark by mark."""
        decoder, marks = Decoder(self.subject), defaultdict(list)
        for first, mark, n in self.todo:
            marks[first].append((mark, n))
        retention = None
        if self.retention is not None:
            retention = prepare_retention(self.subject, self.retention)
        for first, counted in marks.items():
            block = make_block(self.cases[first : first + self.block_n], first)
            prepared = prepare_block(decoder, block)
            earlier: list[BlockAnswers] = []
            for mark, n in counted:
                if first == 0 and retention is not None:
                    yield self._retention_part(retention, mark)
                lines, routes, chunk = [], [], chunk_of(block.case, mark)
                rows = np.flatnonzero(block.case < first + n)
                for state, chosen in self._states(mark, chunk, rows):
                    answers = ask(decoder, state, prepared, chosen, chunk, earlier)
                    earlier += [answers] if answers.route is not None else []
                    for i in block.sort_by_case(chosen):
                        lines.append(case_line(mark, int(chunk[i]), prepared, answers, i))
                        if answers.route is not None and answers.route.hit_n[i] > 0:
                            routes.append(route_line(mark, block, answers.route, i))
                    self.tick(len(np.unique(block.case[chosen])))
                yield RunPart(_name(first, mark), lines, routes)

    def _retention_part(self, prepared: PreparedBlock, mark: int) -> RunPart:
        """Ask the retention questions after a mark's first chunk.

        It runs just before the block that begins with that chunk, which then finds its state held.
        """
        routes = self.subject.editor.routes
        state = self._routed_state(mark) if routes else self._chunk_state(mark, 0)
        lines = retention_lines(self.subject, state, prepared, mark)
        return RunPart(f"retention_{mark:06d}", lines, [])

    def _states(
        self, mark: int, chunk: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[State, np.ndarray]]:
        """Yield each state that some of these rows are asked in, with those rows."""
        if self.subject.editor.routes:
            yield self._routed_state(mark), rows
            return
        for own in np.unique(chunk[rows]).tolist():
            yield self._chunk_state(mark, own), rows[chunk[rows] == own]

    def _make_state(self, cases: Sequence[Case], capacity: int, timed: Sequence[int]) -> State:
        probes = [case.edit for case in cases]
        timed = [mark for mark in timed if mark not in self.costs]
        state, costs = make_edits(self.subject, probes, capacity, self.block_n, timed, self.tick)
        self.costs |= costs
        return state

    def _routed_state(self, mark: int) -> State:
        """Return the state of all edits (made once), viewed as chunks of this mark."""
        if 0 not in self._held:
            self._held[0] = 0, self._make_state(self.cases, len(self.cases), self.schedule.marks)
        editor = self.subject.editor
        assert is_routed(editor)
        if mark not in self._held:
            self._held[mark] = 0, editor.chunk(self._held[0][1], mark)
        return self._held[mark][1]

    def _chunk_state(self, mark: int, own: int) -> State:
        """Return the state of one chunk; only the latest chunk of every mark is held."""
        if self._held.get(mark, (None,))[0] != own:
            cases = self.cases[own * mark : (own + 1) * mark]
            timed = (mark,) if own == 0 else ()
            self._held[mark] = own, self._make_state(cases, max(self.schedule.marks), timed)
        return self._held[mark][1]

    def _block_n(self) -> int:
        """Return the number of cases in a block: the schedule's, or as many as fit HIDDEN_BYTES."""
        model, token = self.subject.model, np.zeros((1, self.subject.shapes.long_n), np.int32)
        image = jax.ShapeDtypeStruct((1, *self.subject.backbone.cfg.image_shape), np.float32)
        seen = jax.eval_shape(partial(editors.encode_image, *model), image)
        batch = without_pixels(token, token.astype(np.int8))
        row_bytes = bytes_of(partial(editors.encode, *model), batch, seen)
        copies = 1 if self.subject.editor.routes else 2  # a row, and the same with its reference
        probes_n = max(len(case.probes) for case in self.cases)
        return max(min(self.schedule.block_n, HIDDEN_BYTES // (copies * probes_n * row_bytes)), 1)


def _name(first: int, mark: int) -> str:
    return f"block_{mark:06d}_{first:06d}"
