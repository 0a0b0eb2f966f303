"""The lifelong protocol for one editor of the comparison, written as it is read.

At a mark of n edits the stream is cut into chunks of n: each begins with the unedited model, makes
its edits one after another, and is then asked all of its probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from liveedit_jax.evaluation import predict, protocol
from liveedit_jax.evaluation.chunks import chunk_of, counted_n
from liveedit_jax.evaluation.decode import Decoder
from liveedit_jax.evaluation.layout import Rows, batches, make_rows, most_n, padded, take
from liveedit_jax.evaluation.probes import EDIT, PROBES, TARGETED, Case, Probe
from liveedit_jax.evaluation.trial import Trial

CUT = "…"  # ends a generation that left its reference here and was not followed further


def unedited_ids(trial: Trial, rows: Rows, probes, known: protocol.Known) -> np.ndarray:
    """The unedited model's most likely token at every answer position."""
    subject = trial.subject
    features = predict.vision_features(subject, [p.image for p in probes], known)
    out = np.zeros((len(rows), rows.position.shape[1]), np.int32)
    for group, t in batches(rows, range(len(rows)), subject.shapes):
        at = padded(group, subject.shapes.batch_n)
        shown = np.stack([features[i] for i in at])
        ids = predict.unedited_ids(
            subject.backbone, subject.weights, take(rows, at, t), shown, rows.position[at]
        )
        out[group] = np.asarray(ids)[: len(group)]
    return out


def reference_paths(decoder: Decoder, block: protocol.Block, rows: Rows) -> list[list[int]]:
    """Token ids that a probe's free generation is compared with, up to and with EOS.

    The decoder has to know what the unedited model generates for these rows.
    """
    eos_id = decoder.subject.tokenizer.eos_id
    paths = []
    for i, probe in enumerate(block.probes):
        answer = rows.answer[i]
        if block.kind[i] in TARGETED:
            paths.append([*answer, eos_id])
            continue
        ids = decoder.known[probe.prompt, predict.image_key(probe.image), len(answer)]
        ids = ids[: most_n(len(answer))]
        paths.append(ids[: ids.index(eos_id) + 1] if eos_id in ids else ids)
    return paths


def said(decoder: Decoder, path: list[int], ids: Sequence[int]) -> str:
    """Free generation as far as the path tells it; CUT where it goes on another way."""
    tokenizer = decoder.subject.tokenizer
    left = next((a for a, (p, i) in enumerate(zip(path, ids, strict=True)) if p != i), None)
    if left is None:
        return tokenizer.decode(path).strip()
    if ids[left] == tokenizer.eos_id:
        return tokenizer.decode(path[:left]).strip()
    return tokenizer.decode([*path[:left], ids[left]]).strip() + CUT


class Asked(NamedTuple):
    """A block's rows, and what the unedited model makes of them."""

    rows: Rows
    before: np.ndarray  # int32[X, A + 1], its most likely tokens
    before_text: list[str]  # what it generates
    paths: list[list[int]]  # see `reference_paths`


def ask_unedited(trial: Trial, decoder: Decoder, block: protocol.Block) -> Asked:
    """A block's rows as the unedited model answers them, all edits aside."""
    subject, probes = trial.subject, block.probes
    rows = make_rows(subject.tokenizer, subject.backbone.cfg, probes, subject.shapes)
    before = unedited_ids(trial, rows, probes, decoder.seen)
    text = decoder.unedited(rows, probes, before)
    return Asked(rows, before, text, reference_paths(decoder, block, rows))


def chunk_lines(
    trial: Trial,
    decoder: Decoder,
    state: Any,
    block: protocol.Block,
    asked: Asked,
    mark: int,
    chosen: Sequence[int],
) -> list[dict]:
    """The lines of `cases.jsonl` of a block's chosen rows, in the state after their edits."""
    rows, paths, eos_id = asked.rows, asked.paths, trial.subject.tokenizer.eos_id
    after = dict(zip(chosen, trial.answers(state, rows, block.probes, chosen), strict=True))

    def walked(i: int) -> bool:  # the teacher-forced answer is the path
        return rows.same_prompt[i] and paths[i] == [*rows.answer[i], eos_id]

    todo = {i: paths[i] for i in chosen if not walked(i)}
    far = trial.along(state, rows, block.probes, todo)
    chunk = chunk_of(block.case, mark)
    order = sorted(chosen, key=lambda i: (block.case[i], PROBES.index(block.kind[i])))
    return [
        protocol.case_line(mark, int(chunk[i]), block, rows, asked.before, i)
        | {
            "after_ids": after[i][: len(rows.answer[i])].tolist(),
            "generated": said(
                decoder, paths[i], far[i] if i in far else after[i][: len(paths[i])].tolist()
            ),
            "before_generated": asked.before_text[i],
            "hit_n": 0,
        }
        for i in order
    ]


class Part(NamedTuple):
    """One chunk, or some small ones, evaluated: what a run is saved in."""

    name: str
    mark: int
    lines: list[dict]  # of `cases.jsonl`
    costs: dict[str, float] | None  # of a mark's first chunk


def edited(
    trial: Trial,
    requests: Sequence[Probe],
    capacity: int,
    tick: Callable[[int], Any] = lambda n: None,
) -> tuple[Any, Any]:
    """The state before the last of these edits (or batch of edits), and that after all."""
    cut = (len(requests) - 1) // trial.together * trial.together
    edits = trial.init(capacity)
    if cut:
        edits = trial.edited(edits, requests[:cut], tick)
    before = jax.tree.map(jnp.array, edits.state)  # edits happen in place
    return before, trial.edited(edits, requests[cut:], tick).state


def parts_of(
    trial: Trial,
    cases: Sequence[Case],
    marks: Sequence[int],
    cases_n: int,
    block_n: int,
    done: Callable[[str, int], bool] = lambda name, cases_n: False,
    tick: Callable[[int], Any] = lambda n: None,
) -> Iterator[Part]:
    """All parts of a run, in order.

    Args:
        trial: the editor.
        cases: the stream.
        marks: numbers of edits.
        cases_n: cases that every mark counts, or one whole chunk.
        block_n: cases that are asked about at once.
        done: says of a part's name and number of cases that it need not be made again.
        tick: hears how many cases more have been edited, and how many more asked about.
    """
    decoder = Decoder(trial.subject, trial.subject.weights, trial.features)
    for mark in marks:
        counted, together = counted_n(mark, cases_n), max(block_n // mark, 1) * mark
        for first in range(0, counted, together):
            name, last = f"block_{mark:06d}_{first:06d}", min(first + together, counted)
            if done(name, last - first):
                continue
            lines: list[dict] = []
            chunk = before = state = None
            for block in protocol.blocks(cases[:last], block_n, first):
                asked = ask_unedited(trial, decoder, block)
                chunks = chunk_of(block.case, mark)
                for own in np.unique(chunks):
                    if own != chunk:
                        chunk, edits = own, cases[own * mark : (own + 1) * mark]
                        requests = [case.probes[EDIT] for case in edits]
                        before, state = edited(trial, requests, max(marks), tick)
                    rows = np.flatnonzero(chunks == own).tolist()
                    lines += chunk_lines(trial, decoder, state, block, asked, mark, rows)
                    tick(len(np.unique(block.case[rows])))
            costs = trial.costs(before, state, requests[-1], mark) if first == 0 else None
            yield Part(name, mark, lines, costs)
