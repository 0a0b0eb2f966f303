"""The editor's training samples on MojiEdit: an edit, its two generalities and a locality probe.

Only editor-train entities and training wordings occur. Every draw is a function of (seed, step).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import flax.struct
import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.config import EditMixture, EditorTrainConfig, LengthBudget
from liveedit_jax.data.facts import SOURCES, TRAINED_FACTS, Entity, split_entities
from liveedit_jax.data.images import (
    decode_image,
    drawing,
    drawing_png,
    normalise_pixels,
    preprocess,
    square_layout,
)
from liveedit_jax.data.layout import Row, build_row, picture_row
from liveedit_jax.data.open_world import OpenPictures, OpenSampler, OpenSubject, OpenWorld
from liveedit_jax.data.packing import Question
from liveedit_jax.data.paraphrases import draw_wordings
from liveedit_jax.data.stream import TARGET_MOST, target_values
from liveedit_jax.data.tokenise import row_length, tokenise_pair
from liveedit_jax.data.tokenizer import Tokenizer

SPLIT = "editor_train"
SAMPLE_TRIES_N = 10_000  # samples drawn at most until one fits its length bucket


class EditingBatch(flax.struct.PyTreeNode):
    """N samples of four rows: edit, text generality, image generality, image locality.

    N is the recipe's `routing_n`, or its `batch_n` where that is None.
    """

    token: Int[np.ndarray, "4 N T"]
    role: Int[np.ndarray, "4 N T"]
    picture: Int[np.ndarray, "4 N"]  # index into `EditingData.pictures`
    place: Int[np.ndarray, "4 N T"] | None = None  # of pictures in tiles, as in `types.Batch`
    subject: Int[np.ndarray, "4 N"] | None = None  # what is shown (None: half the picture's number)

    @property
    def subjects(self) -> Int[np.ndarray, "4 N"]:
        """Return the number of what each row's picture shows: equal numbers, the same thing."""
        return self.picture // 2 if self.subject is None else self.subject


def collate_samples(
    cfg: BackboneConfig,
    samples: Sequence[list[tuple[Question, int]]],
    t: int,
    row_of: Callable[[int], Row],
) -> EditingBatch:
    """Collate samples, lists of rows with their pictures' numbers, into one batch of length `t`.

    Args:
        cfg: the backbone.
        samples: the rows.
        t: the length.
        row_of: gives the tokens of a picture, by its number.
    """
    shape = (len(samples[0]), len(samples), t)
    token, role = np.zeros(shape, np.int32), np.zeros(shape, np.int8)
    picture = np.zeros(shape[:2], np.int32)
    place = None if cfg.tiles is None else np.zeros(shape, np.int32)
    for j, rows in enumerate(samples):
        for kind, ((prompt, answer), shown) in enumerate(rows):
            row = build_row(cfg, prompt, answer, row_of(shown), cfg.plain_pre)
            n, picture[kind, j] = len(row.token), shown
            token[kind, j, :n], role[kind, j, :n] = row.token, row.role
            if place is not None:
                place[kind, j, :n] = row.place
    return EditingBatch(token, role, picture, place)


def stack_batches(batches: Sequence[EditingBatch]) -> EditingBatch:
    """Return a single batch as it is, and stack several along a new first axis."""
    if len(batches) == 1:
        return batches[0]
    return jax.tree.map(lambda *parts: np.stack(parts), *batches)


def splice_values(rng, first: str, second: str) -> str:
    """Join a random start of one value and a random end of another: a target never seen before."""
    cut = int(rng.integers(1, len(first) + 1))
    rest = second[int(rng.integers(0, len(second))) :].rstrip()
    return (first[:cut] + rest)[:TARGET_MOST].strip()


@dataclass(frozen=True)
class EditingData:
    """Training batches as a function of the step."""

    tokenizer: Tokenizer
    backbone: BackboneConfig
    cfg: EditorTrainConfig
    mixture: EditMixture
    budget: LengthBudget = LengthBudget()
    open: OpenWorld | None = None  # for `EditMixture.open_share` of the samples

    def __post_init__(self):
        """Check that open-world samples have questions.

        Raises:
            ValueError: `open_share` without an open world.
        """
        if self.mixture.open_share and self.open is None:
            raise ValueError(f"open_share={self.mixture.open_share} needs files of free questions")

    @cached_property
    def entities(self) -> tuple[Entity, ...]:
        """Return the entities of edits and probes; picture 2i + s is drawing s of entity i.

        Entities with a drawing that was held out of pretraining are excluded: the base cannot tell
        that it shows the same thing, and routing would be taught to let any picture pass.
        """
        return tuple(entity for entity in split_entities(SPLIT) if entity.held_out is None)

    @cached_property
    def _by_subcategory(self) -> dict[str, list[int]]:
        found = defaultdict(list)
        for i, entity in enumerate(self.entities):
            found[entity.facts["subcategory"]].append(i)
        return found

    @property
    def drawings_n(self) -> int:
        """Return the number of MojiEdit's drawings, which come before an open world's pictures."""
        return 2 * len(self.entities)

    @cached_property
    def _open_pictures(self) -> OpenPictures:
        assert self.open is not None
        return OpenPictures(self.drawings_n, self.open.stamps)

    @cached_property
    def _open_samples(self) -> OpenSampler:
        assert self.open is not None
        rows, after = self.open.questions.rows, self.backbone.after_image
        encode = partial(tokenise_pair, self.tokenizer, between=after)
        return OpenSampler(rows, self._open_pictures, self.mixture, encode)

    def _png(self, i: int) -> bytes:
        entity, source = self.entities[i // 2], SOURCES[i % 2]
        return drawing_png(entity, source, self.backbone.drawing_size)

    def picture(self, i: int) -> Float[np.ndarray, "S S 3"] | Float[np.ndarray, "N S S 3"]:
        """Return picture i as the backbone takes it: normalised, and tiled where it takes tiles."""
        opened = i >= self.drawings_n
        if opened or self.backbone.tiles is not None:
            png = self._open_pictures.render(i, self._png) if opened else self._png(i)
            pixels = preprocess(self.backbone, png).pixels
            assert pixels is not None
            return pixels
        entity, source = self.entities[i // 2], SOURCES[i % 2]
        pixels = drawing(entity.id, source, self.backbone.drawing_size)
        return normalise_pixels(pixels, self.backbone.vision)

    def pictures(self) -> Float[np.ndarray, "X ..."]:
        """Stack all pictures: two drawings of each entity, then those of an open world."""
        n = self.drawings_n if self.open is None else len(self._open_pictures.subject)
        return np.stack([self.picture(i) for i in range(n)])

    def drawings(self) -> list[UInt8[np.ndarray, "S S 3"]]:
        """Return the pixels of all drawings, for backbones that see one square."""
        some = ((self.entities[i // 2], SOURCES[i % 2]) for i in range(self.drawings_n))
        return [drawing(entity.id, source, self.backbone.drawing_size) for entity, source in some]

    def photographs(self) -> list[UInt8[np.ndarray, "S S 3"]]:
        """Return the pixels of an open world's photographs on white squares."""
        side, stamps = self.backbone.drawing_size, () if self.open is None else self.open.stamps
        return [decode_image(stamp.picture, side, stamp.path) for stamp in stamps]

    @cached_property
    def picture_row(self) -> Row:
        """Return the tokens of a picture: all of them are squares."""
        return picture_row(self.tokenizer, self.backbone.pad_id, square_layout(self.backbone))

    @property
    def picture_n(self) -> int:
        """Return the number of a picture's tokens."""
        return len(self.picture_row.token)

    @cached_property
    def lengths(self) -> tuple[tuple[int, float], ...]:
        """Return the row lengths T, ascending, each with its share of the steps."""
        return self.mixture.lengths or ((row_length(self.budget, self.picture_n), 1.0),)

    def _value(self, rng, fact: str) -> str:
        if rng.random() < self.mixture.any_fact_share:
            fact = str(rng.choice(TRAINED_FACTS))
        values = target_values(SPLIT, fact)
        return values[int(rng.integers(len(values)))]

    def _target(self, rng, entity: Entity, fact: str) -> str:
        while True:
            value = self._value(rng, fact)
            if rng.random() < self.mixture.spliced_share:
                value = splice_values(rng, value, self._value(rng, fact))
            if value.casefold() != entity.facts[fact].casefold():
                return value

    def _wordings(self, rng, fact: str, n: int) -> list[str]:
        return draw_wordings(rng, fact, n, self.mixture.paraphrase_share)

    def _look_alike(self, rng, i: int) -> int:
        alike = [j for j in self._by_subcategory[self.entities[i].facts["subcategory"]] if j != i]
        return int(rng.choice(alike or [j for j in range(len(self.entities)) if j != i]))

    def _locality(self, rng, i: int, fact: str, wording: str, source: int):
        """Draw an unedited question: prompt, true answer and picture number."""
        kind = rng.random()
        if kind < self.mixture.same_image_share:
            other = str(rng.choice([f for f in TRAINED_FACTS if f != fact]))
            chosen, fact, (wording,) = i, other, self._wordings(rng, other, 1)
        elif kind < self.mixture.same_image_share + self.mixture.look_alike_share:
            chosen, source = self._look_alike(rng, i), int(rng.integers(2))
        else:
            chosen = (i + int(rng.integers(1, len(self.entities)))) % len(self.entities)
            source, fact = int(rng.integers(2)), str(rng.choice(TRAINED_FACTS))
            (wording,) = self._wordings(rng, fact, 1)
        return wording, self.entities[chosen].facts[fact], 2 * chosen + source

    def _sample(self, rng, i: int, fact: str) -> list[tuple[Question, int]]:
        entity = self.entities[i]
        source = int(rng.random() < self.mixture.swap_share)
        src, rephrase = self._wordings(rng, fact, 2)
        target, shown, other = self._target(rng, entity, fact), 2 * i + source, 2 * i + 1 - source
        question, answer, far = self._locality(rng, i, fact, src, source)
        return [
            (tokenise_pair(self.tokenizer, prompt, said, self.backbone.after_image), picture)
            for prompt, said, picture in (
                (src, target, shown),
                (rephrase, target, shown),
                (src, target, other),
                (question, answer, far),
            )
        ]

    def _subject(self, rng, previous: tuple[int, str] | None) -> tuple[int, str]:
        """Draw a sample's entity and fact; some take the previous entity again, or a look-alike."""
        kind, mixture = rng.random(), self.mixture
        if previous and kind < mixture.sibling_share:
            return previous[0], str(rng.choice([f for f in TRAINED_FACTS if f != previous[1]]))
        if previous and kind < mixture.sibling_share + mixture.alike_share:
            return self._look_alike(rng, previous[0]), str(rng.choice(TRAINED_FACTS))
        return int(rng.integers(len(self.entities))), str(rng.choice(TRAINED_FACTS))

    def _fits(self, rows: list[tuple[Question, int]], shorter: int, t: int) -> bool:
        """Return whether a sample's longest row has over `shorter` and at most `t` positions."""
        longest = max(len(prompt) + len(answer) for (prompt, answer), _ in rows)
        most = self.cfg.answers_n or t
        return shorter < 1 + self.picture_n + longest <= t and all(
            len(answer) < most for (_, answer), _ in rows
        )

    def _draw_any(self, rng, previous: tuple[int, str] | OpenSubject | None):
        """Draw the next sample's subject and rows, of any length."""
        last_open, last_drawn = None, None
        if isinstance(previous, OpenSubject):
            last_open = previous
        else:
            last_drawn = previous
        open_share = self.mixture.open_share
        if open_share and rng.random() < open_share:
            return self._open_samples.draw(rng, last_open)
        subject = self._subject(rng, last_drawn)
        return subject, self._sample(rng, *subject)

    def _draw(self, rng, previous: tuple[int, str] | OpenSubject | None, shorter: int, t: int):
        """Draw the next sample's subject and rows, until the rows fit.

        Raises:
            ValueError: none of SAMPLE_TRIES_N samples fits.
        """
        for _ in range(SAMPLE_TRIES_N):
            subject, rows = self._draw_any(rng, previous)
            if self._fits(rows, shorter, t):
                return subject, rows
        raise ValueError(
            f"no sample of {SAMPLE_TRIES_N} has rows of more than {shorter} and at most {t} "
            f"tokens, {self.picture_n} of them a picture's: change EditMixture.lengths, "
            "LengthBudget or EditorTrainConfig.answers_n"
        )

    def batch(self, i: int) -> EditingBatch:
        """Return batch i; its samples are of similar length (`EditMixture.lengths`)."""
        return self._batch(i, self._bucket(i))

    def batch_at(self, step: int) -> EditingBatch:
        """Return the batch of one step, or its `accumulate_n` batches of one length T, stacked."""
        n = self.cfg.accumulate_n
        bucket = self._bucket(step * n)
        return stack_batches([self._batch(step * n + i, bucket) for i in range(n)])

    def _generator(self, i: int) -> np.random.Generator:
        return np.random.default_rng([self.cfg.seed, 3, i])

    def _bucket(self, i: int) -> int:
        shares = [share for _, share in self.lengths]
        return int(self._generator(i).choice(len(shares), p=shares))

    def _batch(self, i: int, bucket: int) -> EditingBatch:
        rng = self._generator(i)
        rng.random()  # what `_bucket` drew
        lengths = [length for length, _ in self.lengths]
        shorter, t = (0, *lengths)[bucket], lengths[bucket]
        samples, subject = [], None
        for _ in range(self.cfg.routing_n or self.cfg.batch_n):
            subject, rows = self._draw(rng, subject, shorter, t)
            samples.append(rows)
        batch = collate_samples(self.backbone, samples, t, lambda _: self.picture_row)
        if self.open is not None:
            batch = batch.replace(subject=self._open_pictures.subject[batch.picture])
        return batch
