"""Open-world training samples: edits that teach any answer to any question about any picture.

Such an edit asks a free question (`open_questions`) about a photograph (`stamps`), or about a
drawing of an editor-train entity where there are no photographs. Neither the question nor the
answer has to fit the picture. Image generality is tested on another view of the same picture
(`views`), so these samples do not teach that two artists' drawings can show the same thing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from liveedit_jax.config import EditMixture
from liveedit_jax.data.images import open_picture, pad_to_square
from liveedit_jax.data.open_questions import OpenQuestion, OpenQuestions
from liveedit_jax.data.packing import Question
from liveedit_jax.data.stamps import Stamp, stamps_sha256
from liveedit_jax.data.views import view_of

VIEWS_N = 2  # of every picture
QUESTION_TRIES_N = 1_000  # questions drawn at most until one differs from a given one


@dataclass(frozen=True, eq=False)
class OpenWorld:
    """Free questions, and the photographs they are asked about (none: MojiEdit's drawings)."""

    questions: OpenQuestions
    stamps: tuple[Stamp, ...] = ()

    @property
    def provenance(self) -> dict:
        """Return the sha256s of questions and photographs, as a recipe records them."""
        found: dict[str, dict] = {"questions": self.questions.sha256}
        if self.stamps:
            found["stamps"] = {"n": len(self.stamps), "sha256": stamps_sha256(self.stamps)}
        return found


@dataclass(frozen=True, eq=False)
class OpenPictures:
    """The numbers of an open world's pictures, which follow those of MojiEdit's drawings.

    Args:
        drawings_n: the number of drawings; 2i and 2i + 1 show one entity.
        stamps: photographs; where there are none, views are made of the drawings.
    """

    drawings_n: int
    stamps: tuple[Stamp, ...] = ()

    @cached_property
    def things(self) -> tuple[tuple[int, ...], ...]:
        """List, for every photograph (or drawing), its own number and those of its views."""
        first, n = self.drawings_n, VIEWS_N + bool(self.stamps)
        things_n = len(self.stamps) or self.drawings_n
        more = [tuple(range(first + i * n, first + (i + 1) * n)) for i in range(things_n)]
        return tuple(more) if self.stamps else tuple((i, *some) for i, some in enumerate(more))

    @cached_property
    def subject(self) -> Int[np.ndarray, " X"]:
        """Return the number of what each of all X pictures shows."""
        last = max(self.things[-1])
        found = np.arange(last + 1) // 2
        for i, pictures in enumerate(self.things):
            found[list(pictures)] = self.drawings_n // 2 + i if self.stamps else i // 2
        return found

    def render(self, i: int, drawing: Callable[[int], bytes]) -> bytes:
        """Render picture i, which is no drawing itself, on a white square as PNG bytes.

        Args:
            i: its number, at least `drawings_n`.
            drawing: returns a drawing's PNG bytes, given its number.
        """
        thing, view = divmod(i - self.drawings_n, VIEWS_N + bool(self.stamps))
        key: str | int
        if self.stamps:
            stamp = self.stamps[thing]
            picture, key, view = stamp.picture, stamp.path, view - 1
        else:
            picture, key = drawing(thing), thing
        shown = open_picture(picture)
        shown = shown if view < 0 else view_of(shown, "training", key, view)
        out = io.BytesIO()
        pad_to_square(shown).convert("RGB").save(out, format="PNG")
        return out.getvalue()


class OpenSubject(NamedTuple):
    """The subject of a sample: the numbers of the thing shown and of the question asked."""

    thing: int
    row: int


@dataclass(frozen=True, eq=False)
class OpenSampler:
    """A sampler of open-world samples.

    Args:
        questions: the questions to ask.
        pictures: the pictures to ask them about.
        mixture: the shares of the kinds of samples.
        encode: tokenises a prompt and its answer.
    """

    questions: Sequence[OpenQuestion]
    pictures: OpenPictures
    mixture: EditMixture
    encode: Callable[[str, str], Question]

    def _random_question(self, rng) -> int:
        return int(rng.integers(len(self.questions)))

    def _different_question(self, rng, row: int) -> int:
        """Draw a question that differs from question `row` and has another answer.

        Raises:
            ValueError: none of QUESTION_TRIES_N questions does.
        """
        asked = self.questions[row]
        known = {asked.src.casefold(), asked.rephrase.casefold()}
        for _ in range(QUESTION_TRIES_N):
            other = self.questions[found := self._random_question(rng)]
            differs = known.isdisjoint((other.src.casefold(), other.rephrase.casefold()))
            if differs and other.answer.casefold() != asked.answer.casefold():
                return found
        raise ValueError(f"no free question of {QUESTION_TRIES_N} is another than {asked.src!r}")

    def _unrelated_picture(self, rng, shown: int) -> int:
        """Draw a picture that shows something else than picture `shown`."""
        subject, things = self.pictures.subject, self.pictures.things
        while True:
            found = int(rng.choice(things[int(rng.integers(len(things)))]))
            if subject[found] != subject[shown]:
                return found

    def _subject(self, rng, previous: OpenSubject | None) -> OpenSubject:
        """Draw a thing and a question; some samples keep the previous sample's thing."""
        if previous is not None and rng.random() < self.mixture.sibling_share:
            return OpenSubject(previous.thing, self._different_question(rng, previous.row))
        return OpenSubject(int(rng.integers(len(self.pictures.things))), self._random_question(rng))

    def _picture_pair(self, rng, thing: int) -> tuple[int, int]:
        """Draw two pictures of a thing: itself and a view, or (`swap_share`) any two."""
        pictures = self.pictures.things[thing]
        if rng.random() < self.mixture.swap_share:
            first, second = rng.choice(pictures, 2, replace=False)
            return int(first), int(second)
        return pictures[0], int(rng.choice(pictures[1:]))

    def _locality(self, rng, subject: OpenSubject, shown: int) -> tuple[str, str, int]:
        """Draw an unedited question: prompt, answer and picture number."""
        kind, mixture = rng.random(), self.mixture
        asked = self.questions[self._different_question(rng, subject.row)]
        prompt = asked.rephrase if rng.random() < 0.5 else asked.src
        if kind < mixture.open_same_image_share:
            return prompt, asked.answer, shown
        if kind < mixture.open_same_image_share + mixture.look_alike_share:
            prompt = self.questions[subject.row].src
        return prompt, asked.answer, self._unrelated_picture(rng, shown)

    def draw(self, rng: np.random.Generator, previous: OpenSubject | None):
        """Draw a sample: its subject and rows.

        Args:
            rng: the step's generator.
            previous: the previous sample's subject, if that sample was an open-world one too.
        """
        subject = self._subject(rng, previous)
        asked = self.questions[subject.row]
        shown, view = self._picture_pair(rng, subject.thing)
        target = asked.answer
        if rng.random() < self.mixture.open_any_answer_share:
            target = self.questions[self._random_question(rng)].answer
        question, answer, far = self._locality(rng, subject, shown)
        return subject, [
            (self.encode(prompt, said), picture)
            for prompt, said, picture in (
                (asked.src, target, shown),
                (asked.rephrase, target, shown),
                (asked.src, target, view),
                (question, answer, far),
            )
        ]
