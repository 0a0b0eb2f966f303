"""The editor's training samples on MojiEdit: an edit, its two generalities and a locality probe.

Only editor-train entities and training wordings occur; every draw is a function of (seed, step).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import flax.struct
import numpy as np
from jaxtyping import Int

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.config import EditMixture, EditorTrainConfig
from liveedit_jax.data.facts import FACTS, SOURCES, Entity, split_entities
from liveedit_jax.data.images import drawing, normalise
from liveedit_jax.data.packing import Question, pack_row
from liveedit_jax.data.paraphrases import draw_wordings
from liveedit_jax.data.stream import TARGET_MOST, target_values
from liveedit_jax.data.tokenise import seam_ids
from liveedit_jax.data.tokenizer import Tokenizer

SPLIT = "editor_train"


@flax.struct.dataclass
class EditingBatch:
    """N samples: row kinds are edit, text generality, image generality, image locality.

    N is the recipe's `routing_n`, or its `batch_n` where that is None.
    """

    token: Int[np.ndarray, "4 N T"]
    role: Int[np.ndarray, "4 N T"]
    picture: Int[np.ndarray, "4 N"]  # a row of `pictures`


def spliced(rng, first: str, second: str) -> str:
    """The beginning of one value and the end of another: a target nobody has learned by heart."""
    cut = int(rng.integers(1, len(first) + 1))
    rest = second[int(rng.integers(0, len(second))) :].rstrip()
    return (first[:cut] + rest)[:TARGET_MOST].strip()


@dataclass(frozen=True)
class EditingData:
    """Batches as a function of the step."""

    tokenizer: Tokenizer
    backbone: BackboneConfig
    cfg: EditorTrainConfig
    mixture: EditMixture

    @cached_property
    def entities(self) -> tuple[Entity, ...]:
        """The entities that edits and probes are about; picture 2i + s is drawing s of entity i.

        Only those whose two drawings the base was pretrained on: where one was held out of it, the
        other cannot be told to be the same thing, and routing would be taught to let anything pass.
        """
        return tuple(entity for entity in split_entities(SPLIT) if entity.held_out is None)

    @cached_property
    def _alike(self) -> dict[str, list[int]]:
        found = defaultdict(list)
        for i, entity in enumerate(self.entities):
            found[entity.facts["subcategory"]].append(i)
        return found

    def pictures(self) -> np.ndarray:
        """All drawings, float32[2 * entities, S, S, 3], normalised."""
        side = self.backbone.vision.image_size
        drawn = [drawing(e.id, s, side) for e in self.entities for s in SOURCES]
        return normalise(np.stack(drawn), self.backbone.vision)

    def _value(self, rng, fact: str) -> str:
        if rng.random() < self.mixture.any_fact_share:
            fact = str(rng.choice(FACTS))
        values = target_values(SPLIT, fact)
        return values[int(rng.integers(len(values)))]

    def _target(self, rng, entity: Entity, fact: str) -> str:
        while True:
            value = self._value(rng, fact)
            if rng.random() < self.mixture.spliced_share:
                value = spliced(rng, value, self._value(rng, fact))
            if value.casefold() != entity.facts[fact].casefold():
                return value

    def _wordings(self, rng, fact: str, n: int) -> list[str]:
        return draw_wordings(rng, fact, n, self.mixture.paraphrase_share)

    def _look_alike(self, rng, i: int) -> int:
        alike = [j for j in self._alike[self.entities[i].facts["subcategory"]] if j != i]
        return int(rng.choice(alike or [j for j in range(len(self.entities)) if j != i]))

    def _locality(self, rng, i: int, fact: str, wording: str, source: int):
        """(prompt, true answer, picture) of an unedited question."""
        kind = rng.random()
        if kind < self.mixture.same_image_share:
            other = str(rng.choice([f for f in FACTS if f != fact]))
            chosen, fact, (wording,) = i, other, self._wordings(rng, other, 1)
        elif kind < self.mixture.same_image_share + self.mixture.look_alike_share:
            chosen, source = self._look_alike(rng, i), int(rng.integers(2))
        else:
            chosen = (i + int(rng.integers(1, len(self.entities)))) % len(self.entities)
            source, fact = int(rng.integers(2)), str(rng.choice(FACTS))
            (wording,) = self._wordings(rng, fact, 1)
        return wording, self.entities[chosen].facts[fact], 2 * chosen + source

    def _sample(self, rng, i: int, fact: str) -> list[tuple[Question, int]]:
        entity = self.entities[i]
        source = int(rng.random() < self.mixture.swap_share)
        src, rephrase = self._wordings(rng, fact, 2)
        target, shown, other = self._target(rng, entity, fact), 2 * i + source, 2 * i + 1 - source
        question, answer, far = self._locality(rng, i, fact, src, source)
        return [
            (seam_ids(self.tokenizer, prompt, said, self.backbone.after_image), picture)
            for prompt, said, picture in (
                (src, target, shown),
                (rephrase, target, shown),
                (src, target, other),
                (question, answer, far),
            )
        ]

    def _subject(self, rng, previous: tuple[int, str] | None) -> tuple[int, str]:
        """Entity and fact of a sample; some share the sample before's entity, or look like it."""
        kind, mixture = rng.random(), self.mixture
        if previous and kind < mixture.sibling_share:
            return previous[0], str(rng.choice([f for f in FACTS if f != previous[1]]))
        if previous and kind < mixture.sibling_share + mixture.alike_share:
            return self._look_alike(rng, previous[0]), str(rng.choice(FACTS))
        return int(rng.integers(len(self.entities))), str(rng.choice(FACTS))

    def batch_at(self, step: int) -> EditingBatch:
        """The batch of one step; its samples are of similar length (`EditMixture.lengths`)."""
        rng = np.random.default_rng([self.cfg.seed, 3, step])
        lengths, shares = zip(*self.mixture.lengths, strict=True)
        bucket = int(rng.choice(len(lengths), p=shares))
        shorter, t = (0, *lengths)[bucket], lengths[bucket]
        n, vision_n = self.cfg.routing_n or self.cfg.batch_n, self.backbone.vision_n
        token, role = np.zeros((4, n, t), np.int32), np.zeros((4, n, t), np.int8)
        picture = np.zeros((4, n), np.int32)
        i, fact = 0, ""
        for j in range(n):
            previous = i, fact
            while True:
                i, fact = self._subject(rng, previous if j else None)
                rows = self._sample(rng, i, fact)
                longest = max(len(prompt) + len(answer) for (prompt, answer), _ in rows)
                if shorter < 1 + vision_n + longest <= t:
                    break
            for kind, (question, shown) in enumerate(rows):
                row, _ = pack_row([question], t, self.backbone.bos_id, vision_n)
                token[kind, j], role[kind, j], picture[kind, j] = row["token"], row["role"], shown
        return EditingBatch(token, role, picture)
