"""Probes as rows of tokens, and rows as batches of a few static shapes.

Few shapes mean few compilations, whatever the number of probes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.config import LengthBudget
from liveedit_jax.data.images import picture_bytes, preprocess
from liveedit_jax.data.layout import Layout, picture_row, single_layout
from liveedit_jax.data.tokenise import Example, round_up, tokenise, tokenise_pair, without_pixels
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.evaluation.probes import Case, Probe, image_key
from liveedit_jax.types import Batch, Role, Route

RowNumbers = Sequence[int] | np.ndarray  # of ProbeRows
TOKENISED_N = 16  # rows that are tokenised at once
Layouts = Mapping[bytes, Layout]  # of pictures in tiles, by `image_key`


def max_generated_n(answer_n: int) -> int:
    """Return the most tokens of a free generation whose target has A = `answer_n`: 2A + 8."""
    return 2 * answer_n + 8


@dataclass(frozen=True)
class Shapes:
    """The static sizes of a run."""

    short_n: int  # T of the rows up to the median length
    long_n: int  # T of the others
    picture_n: int  # tokens of the picture that has the most
    prompt_n: int  # Q, of the longest prompt
    answer_n: int  # A, of the longest answer
    batch_n: int  # rows per batch

    @property
    def steps_n(self) -> int:
        """Return the most tokens of any free generation of the run."""
        return max_generated_n(self.answer_n)


@dataclass(frozen=True, eq=False)
class ProbeRows:
    """X tokenised probes; all arrays are numpy's."""

    token: Int[np.ndarray, "X T"]
    role: Int[np.ndarray, "X T"]
    length: Int[np.ndarray, " X"]
    position: Int[np.ndarray, "X A1"]  # where answer token a (and then EOS) is predicted
    answer: list[list[int]]
    prompt_token: Int[np.ndarray, "X Tp"]  # the prompt alone, as generation sees it
    prompt_role: Int[np.ndarray, "X Tp"]
    same_prompt: list[bool]  # the prompt's ids are the same with and without its target
    place: Int[np.ndarray, "X T"] | None = None  # of pictures in tiles, as in `types.Batch`
    prompt_place: Int[np.ndarray, "X Tp"] | None = None

    def __len__(self) -> int:
        """Return X, the number of rows."""
        return len(self.answer)


def measure_shapes(
    tokenizer: Tokenizer,
    cfg: BackboneConfig,
    cases: Sequence[Case],
    batch_n: int,
    layouts: Layouts | None = None,
) -> Shapes:
    """Return the shapes that fit every probe of a stream, with `layouts` of pictures in tiles."""
    prompts, answers, lengths, most_n = [], [], [], cfg.vision_n
    for case in cases:
        for probe in case.probes:
            has_image = probe.image is not None
            between = cfg.after_image if has_image else ""
            prompt, answer = tokenise_pair(tokenizer, probe.prompt, probe.target, between)
            alone, _ = tokenise_pair(tokenizer, probe.prompt, None, between)
            prompts.append(max(len(prompt), len(alone)) + cfg.image_first)
            answers.append(len(answer))
            picture_n = _picture_n(tokenizer, cfg, probe, layouts)
            most_n = max(most_n, picture_n)
            lengths.append(len(cfg.plain_pre) + picture_n + len(prompt) + len(answer))
    short_n = round_up(int(np.median(lengths)), 4)
    return Shapes(
        short_n=short_n,
        long_n=max(round_up(max(lengths), 4), short_n + 4),
        picture_n=most_n,
        prompt_n=round_up(max(prompts), 4),
        answer_n=round_up(max(answers), 4),
        batch_n=batch_n,
    )


def _picture_n(
    tokenizer: Tokenizer, cfg: BackboneConfig, probe: Probe, layouts: Layouts | None
) -> int:
    if probe.image is None:
        return 0
    layout = layouts[image_key(probe.image)] if layouts else single_layout(cfg.vision_n)
    return len(picture_row(tokenizer, cfg.pad_id, layout).token)


def make_rows(
    tokenizer: Tokenizer,
    cfg: BackboneConfig,
    probes: Sequence[Probe],
    shapes: Shapes,
    layouts: Layouts | None = None,
) -> ProbeRows:
    """Tokenise probes; their images stay with the probes, `layouts` are of those in tiles."""
    budget = LengthBudget(prompt_n=shapes.prompt_n, answer_n=shapes.answer_n)
    prompt_t = len(cfg.plain_pre) + shapes.picture_n + shapes.prompt_n

    def example(probe: Probe, target: bool) -> Example:
        text = probe.target if target else None
        if probe.image is None:
            return Example(probe.prompt, text, None)
        layout = layouts[image_key(probe.image)] if layouts else single_layout(cfg.vision_n)
        return Example(probe.prompt, text, None, layout)  # its pixels do not pass through here

    def batch(target: bool) -> Batch:
        """Tokenise a few at a time: rows without any picture get pixels, which may be large."""
        parts = []
        for at in range(0, max(len(probes), 1), TOKENISED_N):
            some = [example(probe, target) for probe in probes[at : at + TOKENISED_N]]
            part = tokenise(tokenizer, cfg, some, budget)
            parts.append(without_pixels(part.token, part.role).replace(place=part.place))
        return jax.tree.map(lambda *leaves: _stack(leaves, prompt_t + shapes.answer_n), *parts)

    full, alone = batch(True), batch(False)
    token, role, prompt_token, prompt_role = map(
        np.asarray, (full.token, full.role, alone.token, alone.role)
    )
    is_answer = role == Role.ANSWER
    first, count = is_answer.argmax(1), is_answer.sum(1)
    answer = [token[x, first[x] : first[x] + count[x]].tolist() for x in range(len(probes))]
    step = np.minimum(np.arange(shapes.answer_n + 1), count[:, None])
    same = [
        np.array_equal(token[x, : first[x]], prompt_token[x, : first[x]])
        and int(first[x]) == int((prompt_role[x] != Role.PAD).sum())
        for x in range(len(probes))
    ]
    return ProbeRows(
        token=token,
        role=role,
        length=(role != Role.PAD).sum(1),
        position=(first[:, None] - 1 + step).astype(np.int32),
        answer=answer,
        prompt_token=prompt_token[:, :prompt_t],
        prompt_role=prompt_role[:, :prompt_t],
        same_prompt=same,
        place=None if full.place is None else np.asarray(full.place),
        prompt_place=None if alone.place is None else np.asarray(alone.place)[:, :prompt_t],
    )


def _stack(leaves: Sequence[np.ndarray], t: int) -> np.ndarray:
    """Stack rows [X, T] that are padded to different lengths, all to `t`."""
    if leaves[0].ndim > 2:  # what stands for pixels
        return np.concatenate(leaves)
    return np.concatenate(
        [np.pad(leaf[:, :t], ((0, 0), (0, max(t - leaf.shape[1], 0)))) for leaf in leaves]
    )


def replace_answers(
    rows: ProbeRows, chosen: Sequence[int], paths: Sequence[list[int]], shapes: Shapes
) -> ProbeRows:
    """Return the prompts of the chosen rows, each followed by the given ids as its answer."""
    longer = ((0, 0), (0, shapes.steps_n))
    token = np.pad(rows.prompt_token[chosen], longer)
    role = np.pad(rows.prompt_role[chosen], longer)
    place = None if rows.prompt_place is None else rows.prompt_place[chosen]
    first = (role != Role.PAD).sum(1)
    for x, path in enumerate(paths):
        token[x, first[x] : first[x] + len(path)] = path
        role[x, first[x] : first[x] + len(path)] = Role.ANSWER
    count = np.asarray([len(path) for path in paths], np.int64)[:, None]
    step = np.minimum(np.arange(shapes.steps_n), count - 1)
    return ProbeRows(
        token=token,
        role=role,
        length=(role != Role.PAD).sum(1),
        position=(first[:, None] - 1 + step).astype(np.int32),
        answer=[list(path) for path in paths],
        prompt_token=rows.prompt_token[chosen],
        prompt_role=rows.prompt_role[chosen],
        same_prompt=[True] * len(paths),
        place=None if place is None else np.pad(place, longer),
        prompt_place=place,
    )


def pad_group(rows: RowNumbers, n: int) -> np.ndarray:
    """Pad row numbers to `n` with the first one, so that the last batch has the usual shape."""
    own = np.asarray(rows, np.int64)
    return np.concatenate([own, np.full(n - len(own), own[0])])


def group_by_length(
    rows: ProbeRows, chosen: RowNumbers, shapes: Shapes
) -> Iterator[tuple[np.ndarray, int]]:
    """Group the chosen rows by length, at most `batch_n` in a group; yields each with its T."""
    some = np.asarray(chosen, np.int64)
    fits = rows.length[some] <= shapes.short_n
    for group, t in ((some[fits], shapes.short_n), (some[~fits], shapes.long_n)):
        for start in range(0, len(group), shapes.batch_n):
            yield group[start : start + shapes.batch_n], t


def route_widths(top_k: int) -> tuple[int, int]:
    """Return the two static numbers of experts that a batch may carry: K / 4 (rounded up), and K.

    Most queries use few of their K experts, and a batch of such queries costs less.
    """
    return -(-top_k // 4), top_k


def group_by_width(found: Route, chosen: RowNumbers) -> Iterator[tuple[np.ndarray, int]]:
    """Group the chosen rows by the smaller of `route_widths` that holds all their experts."""
    some, weight = np.asarray(chosen, np.int64), np.asarray(found.weight)
    narrow, wide = route_widths(weight.shape[1])
    few = ~(weight[some, narrow:] > 0).any(-1)
    for group, k in ((some[few], narrow), (some[~few], wide)):
        if len(group):
            yield group, k


def take(rows: ProbeRows, chosen: np.ndarray, t: int) -> Batch:
    """Make a batch of length `t` (at least the rows' own) without pixels."""
    batch = without_pixels(rows.token[chosen, :t], rows.role[chosen, :t])
    return batch if rows.place is None else batch.replace(place=rows.place[chosen, :t])


def take_prompt(rows: ProbeRows, chosen: np.ndarray) -> Batch:
    """Make a batch of prompts without their targets and without pixels."""
    batch = without_pixels(rows.prompt_token[chosen], rows.prompt_role[chosen])
    if rows.prompt_place is None:
        return batch
    return batch.replace(place=rows.prompt_place[chosen])


def read_pixels(cfg: BackboneConfig, image: bytes | Path) -> Float[np.ndarray, "S S 3"]:
    """Read a picture and preprocess it for the backbone.

    Raises:
        FileNotFoundError: its file is not there.
        ValueError: it is not a whole image.
    """
    name = "image" if isinstance(image, bytes) else str(image)
    pixels = preprocess(cfg, picture_bytes(image), name).pixels
    assert pixels is not None  # of a picture, there are some
    return pixels
