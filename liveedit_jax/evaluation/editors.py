"""The lifelong protocol for one editor of the comparison, written as it is read.

At a mark of n edits the stream is cut into chunks of n: each begins with the unedited model, makes
its edits one after another, and is then asked all of its probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from liveedit_jax.evaluation import predict, protocol
from liveedit_jax.evaluation.chunks import counted_n
from liveedit_jax.evaluation.decode import Decoder
from liveedit_jax.evaluation.layout import Rows, batches, make_rows, most_n, padded, take
from liveedit_jax.evaluation.probes import EDIT, PROBES, TARGETED, Case
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


def block_lines(
    trial: Trial, decoder: Decoder, state: Any, block: protocol.Block, mark: int
) -> list[dict]:
    """The lines of `cases.jsonl` of one chunk's block of cases, in the state after its edits."""
    subject, probes = trial.subject, block.probes
    rows = make_rows(subject.tokenizer, subject.backbone.cfg, probes, subject.shapes)
    before = unedited_ids(trial, rows, probes, decoder.seen)
    before_text = decoder.unedited(rows, probes, before)
    paths = reference_paths(decoder, block, rows)
    after = trial.answers(state, rows, probes, range(len(rows)))
    eos_id = subject.tokenizer.eos_id

    def walked(i: int) -> bool:  # the teacher-forced answer is the path
        return rows.same_prompt[i] and paths[i] == [*rows.answer[i], eos_id]

    far = trial.along(state, rows, probes, {i: p for i, p in enumerate(paths) if not walked(i)})
    order = sorted(range(len(rows)), key=lambda i: (block.case[i], PROBES.index(block.kind[i])))
    return [
        protocol.case_line(mark, int(block.case[i]) // mark, block, rows, before, i)
        | {
            "after_ids": after[i, : len(rows.answer[i])].tolist(),
            "generated": said(
                decoder, paths[i], far[i] if i in far else after[i, : len(paths[i])].tolist()
            ),
            "before_generated": before_text[i],
            "hit_n": 0,
        }
        for i in order
    ]


class Part(NamedTuple):
    """One chunk, or some small ones, evaluated: what a run is saved in."""

    name: str
    mark: int
    cases_n: int
    lines: list[dict]  # of `cases.jsonl`
    costs: dict[str, float] | None  # of a mark's first chunk


def parts_of(
    trial: Trial,
    cases: Sequence[Case],
    marks: Sequence[int],
    cases_n: int,
    block_n: int,
    done: Callable[[str, int], bool] = lambda name, cases_n: False,
) -> Iterator[Part]:
    """All parts of a run, in order.

    Args:
        trial: the editor.
        cases: the stream.
        marks: numbers of edits.
        cases_n: cases that every mark counts, or one whole chunk.
        block_n: cases that are asked about at once.
        done: says of a part's name and number of cases that it need not be made again.
    """
    decoder = Decoder(trial.subject, trial.subject.weights, {})
    for mark in marks:
        counted, together = counted_n(mark, cases_n), max(block_n // mark, 1) * mark
        for first in range(0, counted, together):
            name, last = f"block_{mark:06d}_{first:06d}", min(first + together, counted)
            if done(name, last - first):
                continue
            lines: list[dict] = []
            for begin in range(first, last, mark):
                chunk = cases[begin : begin + mark]
                asked = [case.probes[EDIT] for case in chunk]
                state = trial.edited(trial.init(max(marks)), asked)
                for start in range(0, mark, block_n):
                    block = protocol.block_of(chunk[start : start + block_n], begin + start)
                    lines += block_lines(trial, decoder, state, block, mark)
            costs = trial.costs(state, asked[-1], mark) if first == 0 else None
            yield Part(name, mark, last - first, lines, costs)
