"""The editor's training samples on a public benchmark: its training rows, shuffled every epoch.

A sample is a record: its edit, both generalities and its image-locality probe (text locality is
not trained, as in the released code). Every draw is a function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.config import EditorTrainConfig
from liveedit_jax.data.editing import EditingBatch, collate_samples, stack_batches
from liveedit_jax.data.images import ProcessedImage, picture_bytes, preprocess
from liveedit_jax.data.layout import Row, picture_row, single_layout
from liveedit_jax.data.packing import Question
from liveedit_jax.data.prompts import Prompts
from liveedit_jax.data.records import Record
from liveedit_jax.data.tokenise import LENGTH_MULTIPLE, round_up, tokenise_pair
from liveedit_jax.data.tokenizer import Tokenizer

# Numbers of record r's pictures: 4r is the edited one, 4r + 1 its rephrase, 4r + 2 the locality
# probe's. Two pictures show the same subject if half their numbers, rounded down, are equal.
PICTURE_OFFSETS = {"image": 0, "image_rephrase": 1, "m_loc": 2}


@dataclass(frozen=True, eq=False)
class BenchmarkData:
    """Training batches as a function of the step; the interface is `data.editing.EditingData`'s."""

    tokenizer: Tokenizer
    backbone: BackboneConfig
    cfg: EditorTrainConfig
    records: Sequence[Record]
    prompts: Prompts

    def __post_init__(self):
        """Check that batches can be made.

        Raises:
            ValueError: fewer records than a batch has, or an answer beyond `answers_n`.
        """
        if len(self.records) < self._batch_n:
            raise ValueError(f"{len(self.records)} records do not fill a batch of {self._batch_n}")
        longest = max(len(answer) for rows in self._rows for (_, answer), _ in rows)
        if self.cfg.answers_n is not None and longest >= self.cfg.answers_n:
            raise ValueError(
                f"the longest answer has {longest} tokens: use the benchmark's own preset "
                f"(llava-1.5-7b-eic, ...), or a config file whose editor_train has "
                f"answers_n={longest + 1} or more (experiments/configs/example.py)"
            )

    @property
    def _batch_n(self) -> int:
        return self.cfg.routing_n or self.cfg.batch_n

    @cached_property
    def _square(self) -> Row:
        """Tokenise a picture that is one square."""
        layout = single_layout(self.backbone.vision_n)
        return picture_row(self.tokenizer, self.backbone.pad_id, layout)

    @cached_property
    def _tiled(self) -> dict[int, Row]:
        return {}  # what `_row_of` has found so far

    def _row_of(self, i: int) -> Row:
        """Return the tokens of picture i, which is read where they depend on it."""
        if self.backbone.tiles is None:
            return self._square
        if i not in self._tiled:
            layout = self._read(i).layout
            assert layout is not None  # of a picture
            self._tiled[i] = picture_row(self.tokenizer, self.backbone.pad_id, layout)
        return self._tiled[i]

    @cached_property
    def _rows(self) -> list[list[tuple[Question, int]]]:
        """Tokenise every record's four rows: prompt and answer ids, and the picture's number."""

        def question(prompt: str, target: str) -> Question:
            return tokenise_pair(self.tokenizer, prompt, target, self.backbone.after_image)

        found = []
        for r, record in enumerate(self.records):
            src = question(self.prompts.edit.format(record.src), record.alt)
            rephrase = question(self.prompts.edit.format(record.rephrase), record.alt)
            locality = self.prompts.image_locality.format(record.m_loc_q)
            rows = (src, rephrase, src, question(locality, record.m_loc_a))
            found.append([(row, 4 * r + k) for row, k in zip(rows, (0, 0, 1, 2), strict=True)])
        return found

    def picture(self, i: int) -> Float[np.ndarray, "S S 3"] | Float[np.ndarray, "N S S 3"]:
        """Preprocess picture i as the backbone's own processor does.

        Raises:
            ValueError: the file is not a complete image.
        """
        pixels = self._read(i).pixels
        assert pixels is not None
        return pixels

    def _read(self, i: int) -> ProcessedImage:
        r, k = divmod(i, 4)
        record = self.records[r]
        image = record[list(PICTURE_OFFSETS)[k]]
        name = f"{list(PICTURE_OFFSETS)[k]} of row {record.row}"
        if isinstance(image, Path):
            name += f" ({image})"
        return preprocess(self.backbone, picture_bytes(image), name)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.cfg.seed, 5, epoch]).permutation(len(self.records))

    def _batch_records(self, i: int) -> list[int]:
        """Return the records of batch i; an epoch's incomplete last batch is dropped."""
        per_epoch = len(self.records) // self._batch_n
        epoch, at = divmod(i, per_epoch)
        return self._order(epoch)[at * self._batch_n : (at + 1) * self._batch_n].tolist()

    def _length(self, chosen: Sequence[int]) -> int:
        """Return T: the longest row, rounded up to a multiple of LENGTH_MULTIPLE."""
        rows = (row for r in chosen for row in self._rows[r])
        longest = max(len(self._row_of(i).token) + len(p) + len(a) for (p, a), i in rows)
        return round_up(1 + longest, LENGTH_MULTIPLE)

    def batch_at(self, step: int) -> EditingBatch:
        """Return the batch of one step, or its `accumulate_n` batches of one length T, stacked."""
        n = self.cfg.accumulate_n
        chosen = [self._batch_records(step * n + i) for i in range(n)]
        t = max(self._length(some) for some in chosen)
        samples = ([self._rows[r] for r in some] for some in chosen)
        return stack_batches(
            [collate_samples(self.backbone, some, t, self._row_of) for some in samples]
        )
