"""The lifelong protocol: every chunk's edits into its own repository, then all its probes.

Lower states, queries and unedited answers of a block of cases are computed once and serve every
mark; a probe that hits nothing keeps its unedited result, and one whose route is that of an
earlier mark keeps that mark's result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Int

from liveedit_jax.evaluation import predict
from liveedit_jax.evaluation.chunks import chunk_of, counted_n
from liveedit_jax.evaluation.decode import Decoder
from liveedit_jax.evaluation.layout import Rows, batches, by_width, make_rows, padded, take
from liveedit_jax.evaluation.predict import Subject
from liveedit_jax.evaluation.probes import EDIT, PROBES, Case, Probe
from liveedit_jax.types import Expert, Query, Repository, Route

Known = dict[bytes, np.ndarray]  # vision features by picture


@dataclass(frozen=True, eq=False)
class Encoded:
    """What no edit changes about some rows, on the host."""

    rows: Rows
    hidden: list[np.ndarray]  # X times f32[T of the row's batch, D]
    query: Query  # [X, ...]
    before: np.ndarray  # int32[X, A + 1]


@dataclass(frozen=True, eq=False)
class Block:
    """Some consecutive cases and their probes, as rows."""

    first: int  # number of the first case
    cases: Sequence[Case]
    case: np.ndarray  # int64[X], the case of each row
    kind: list[str]  # X keys of PROBES
    probes: list[Probe]


def blocks(cases: Sequence[Case], block_n: int, begin: int = 0) -> Iterator[Block]:
    """The stream from case `begin` on, in blocks of `block_n` cases."""
    for first in range(begin, len(cases), block_n):
        yield block_of(cases[first : first + block_n], first)


def block_of(cases: Sequence[Case], first: int) -> Block:
    """Rows of consecutive cases: the edits themselves first, then case by case all else."""
    order = [(c, kind) for c in range(len(cases)) for kind in PROBES if kind in cases[c].probes]
    order.sort(key=lambda row: row[1] != EDIT)
    return Block(
        first=first,
        cases=cases,
        case=np.asarray([first + c for c, _ in order]),
        kind=[kind for _, kind in order],
        probes=[cases[c].probes[kind] for c, kind in order],
    )


def encode_probes(subject: Subject, probes: list[Probe], known: Known) -> Encoded:
    """Lower states, routing queries and unedited answers of probes."""
    rows = make_rows(subject.tokenizer, subject.backbone.cfg, probes, subject.shapes)
    features = predict.vision_features(subject, [p.image for p in probes], known)
    x, key_n = len(rows), subject.cfg.queries_n * subject.cfg.module_width
    query = Query(
        np.zeros((x, key_n), np.float32), np.zeros((x, key_n), np.float32), np.zeros(x, np.float32)
    )
    hidden: list = [None] * x
    before = np.zeros((x, subject.shapes.answer_n + 1), np.int32)
    for group, t in batches(rows, range(x), subject.shapes):
        chosen = padded(group, subject.shapes.batch_n)
        states, asked, ids = predict.encode(
            subject.backbone,
            subject.cfg,
            subject.weights,
            subject.editor,
            take(rows, chosen, t),
            np.stack([features[i] for i in chosen]),
            rows.position[chosen],
        )
        states = np.asarray(states)
        for b, i in enumerate(group):
            hidden[i] = states[b].copy()
        before[group] = np.asarray(ids)[: len(group)]
        jax.tree.map(
            lambda out, part, at=group: out.__setitem__(at, np.asarray(part)[: len(at)]),
            query,
            asked,
        )
    return Encoded(rows, hidden, query, before)


def make_experts(subject: Subject, encoded: Encoded, chosen: Sequence[int]) -> Expert:
    """Experts (numpy, in the order of `chosen`) of edits whose rows were encoded."""
    place = {int(i): n for n, i in enumerate(chosen)}
    out = None
    for group, t in batches(encoded.rows, chosen, subject.shapes):
        rows = padded(group, subject.shapes.batch_n)
        batch = take(encoded.rows, rows, t)
        hidden = np.stack([encoded.hidden[i] for i in rows])
        part = predict.experts(subject.cfg, subject.editor, hidden, batch.role)
        part = jax.tree.map(lambda leaf, at=group: np.asarray(leaf)[: len(at)], part)
        if out is None:
            out = jax.tree.map(
                lambda leaf: np.zeros((len(chosen), *leaf.shape[1:]), leaf.dtype), part
            )
        at = [place[int(i)] for i in group]
        jax.tree.map(lambda to, leaf, at=at: to.__setitem__(at, leaf), out, part)
    return out


def find_routes(
    subject: Subject, repo: Repository, query: Query, at: np.ndarray | None, shown: np.ndarray
) -> tuple[Route, np.ndarray]:
    """Routes and margins (numpy) of the rows in `shown`; all other rows hit nothing (-inf).

    Args:
        subject: the editor's config.
        repo: every case's expert.
        query: [X, ...].
        at: each row's moment, int[X]; None: now.
        shown: the rows whose queries have a picture.
    """
    x, b = len(query.threshold), subject.shapes.batch_n
    k = min(subject.cfg.top_k, repo.born.shape[0])
    route = Route(
        np.zeros((x, k), np.int32),
        np.zeros((x, k), np.float32),
        np.zeros(x, np.int32),
        np.ones(x, np.float32),
    )
    out = route, np.full(x, -np.inf, np.float32)
    moments = np.full(x, int(repo.clock)) if at is None else at
    for start in range(0, len(shown), b):
        group = shown[start : start + b]
        rows = padded(group, b)
        part = predict.routed(
            subject.cfg,
            repo,
            jax.tree.map(lambda leaf, rows=rows: leaf[rows], query),
            moments[rows, None].astype(np.int32),
        )
        jax.tree.map(
            lambda to, leaf, at=group: to.__setitem__(at, np.asarray(leaf)[: len(at)]), out, part
        )
    used = route.weight > 0
    slot, weight = np.where(used, route.slot, 0), np.where(used, route.weight, 0.0)
    return route.replace(slot=slot, weight=weight), out[1]


def edited(
    subject: Subject, repo: Repository, encoded: Encoded, found: Route, chosen: Sequence[int]
) -> np.ndarray:
    """Answers int32[len(chosen), A + 1] of the chosen rows under their routes."""
    place = {int(i): n for n, i in enumerate(chosen)}
    out = np.zeros((len(chosen), subject.shapes.answer_n + 1), np.int32)
    for some, k in by_width(found, chosen):
        for group, t in batches(encoded.rows, some, subject.shapes):
            rows = padded(group, subject.shapes.batch_n)
            ids = predict.edited_ids(
                subject.backbone,
                subject.cfg,
                subject.weights,
                subject.editor,
                repo,
                np.stack([encoded.hidden[i] for i in rows]),
                take(encoded.rows, rows, t),
                found.slot[rows, :k],
                found.weight[rows, :k].astype(np.float32),
                encoded.rows.position[rows],
            )
            out[[place[int(i)] for i in group]] = np.asarray(ids)[: len(group)]
    return out


def evaluate_block(
    subject: Subject,
    decoder: Decoder,
    block: Block,
    encoded: Encoded,
    repository_of: Callable[[int], tuple[Repository, bool]],
    marks: Sequence[int],
    cases_n: int,
) -> tuple[list[dict], list[dict]]:
    """The lines of `cases.jsonl` and of `routes.jsonl` of one block, at every mark.

    Args:
        subject: the model.
        decoder: free generation.
        block: the cases.
        encoded: what no edit changes about the block's rows.
        repository_of: mark -> the repository of all cases as that mark needs it, and whether it is
            the one fresh repository of that mark (then queries route now, not at their chunk).
        marks: numbers of edits.
        cases_n: cases that every mark counts, or one whole chunk.
    """
    rows = encoded.rows
    shown = np.flatnonzero([probe.image is not None for probe in block.probes])
    before_text = decoder.unedited(rows, block.probes, encoded.before)
    done: list[tuple[Route, np.ndarray, list[str]]] = []
    lines, fired = [], []
    for mark in marks:
        counted = block.case < counted_n(mark, cases_n)
        if not counted.any():
            continue
        repo, fresh = repository_of(mark)
        at = None if fresh else chunk_of(block.case, mark)
        found, margin = find_routes(subject, repo, encoded.query, at, shown[counted[shown]])
        after, text = encoded.before.copy(), list(before_text)
        todo = []
        for i in np.flatnonzero(counted & (found.hit_n > 0)):
            for past, past_after, past_text in done:
                if same_route(past, found, i):
                    after[i], text[i] = past_after[i], past_text[i]
                    break
            else:
                todo.append(int(i))
        if todo:
            after[todo] = edited(subject, repo, encoded, found, todo)
            generated = decoder.edited(rows, block.probes, repo, found, after, todo)
            for i, said in generated.items():
                text[i] = said
        done.append((found, after, text))
        chunk = chunk_of(block.case, mark)
        order = sorted(range(len(rows)), key=lambda i: (block.case[i], PROBES.index(block.kind[i])))
        for i in (i for i in order if counted[i]):
            lines.append(
                case_line(mark, int(chunk[i]), block, rows, encoded.before, int(i))
                | {
                    "after_ids": after[i, : len(rows.answer[i])].tolist(),
                    "generated": text[i],
                    "before_generated": before_text[i],
                    "hit_n": int(found.hit_n[i]),
                    **({"margin": float(margin[i])} if np.isfinite(margin[i]) else {}),
                }
            )
            if found.hit_n[i] > 0:
                fired.append(route_line(mark, block, found, int(i)))
    return lines, fired


def same_route(a: Route, b: Route, i: int) -> bool:
    """Row i uses the same experts with the same weights."""
    return (
        a.hit_n[i] > 0
        and np.array_equal(a.slot[i], b.slot[i])
        and np.array_equal(a.weight[i], b.weight[i])
    )


def case_line(
    mark: int, chunk: int, block: Block, rows: Rows, before: Int[np.ndarray, "X A1"], i: int
) -> dict:
    """What a line of `cases.jsonl` says before any edit, in the order of its fields."""
    case, probe = block.cases[block.case[i] - block.first], block.probes[i]
    answer = rows.answer[i]
    image = {} if probe.file is None else {"image": probe.file}
    return {
        "mark": mark,
        "chunk": chunk,
        "case": int(block.case[i]),
        "entity": case.entity,
        "fact": case.fact,
        "probe": block.kind[i],
        "prompt": probe.prompt,
        **image,
        "target": probe.target,
        "target_ids": answer,
        "before_ids": before[i, : len(answer)].tolist(),
    }


def route_line(mark: int, block: Block, found: Route, i: int) -> dict:
    """Which cases' experts a probe used, strongest first, and what share of the weight that is."""
    used = np.flatnonzero(found.weight[i] > 0)
    return {
        "mark": mark,
        "case": int(block.case[i]),
        "probe": block.kind[i],
        "experts": [[int(found.slot[i, k]), float(found.weight[i, k])] for k in used],
        "kept": float(found.kept[i]),
    }
