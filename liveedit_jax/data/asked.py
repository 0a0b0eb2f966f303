"""Training data of text keys: several questions of one subject, each in two wordings.

A group asks a subject either some of MojiEdit's trained facts, intents (`intents.py`) or free
questions (`open_questions.py`), all different; each is the others' negative. The picture says
nothing about the question: the second wording is asked about either drawing of the entity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from liveedit_jax.config import DirectionsFitConfig
from liveedit_jax.data.facts import TRAINED_FACTS
from liveedit_jax.data.intents import TOPICS, draw_intents
from liveedit_jax.data.open_questions import OpenQuestion
from liveedit_jax.data.paraphrases import draw_wordings


class AskedGroups(NamedTuple):
    """G groups of N questions. Equal numbers in `question` ask the same."""

    prompts: list[list[tuple[str, str]]]
    picture: Int[np.ndarray, "G N 2"]
    question: Int[np.ndarray, "G N"]


def draw_groups(
    cfg: DirectionsFitConfig, entities_n: int, seed: int, free: Sequence[OpenQuestion] = ()
) -> AskedGroups:
    """Draw groups of questions.

    Args:
        cfg: how many, and the shares of their kinds.
        entities_n: entities that are shown; drawings 2i and 2i + 1 show entity i.
        seed: determines all draws.
        free: free questions; none: their share goes to the other two kinds.
    """
    rng = np.random.default_rng([seed, 5])
    numbers: dict[tuple[int, str], int] = {}  # what is asked, in the order of its appearance
    shares = np.array([cfg.facts_share, cfg.intents_share, cfg.free_share * bool(free)])
    topics, prompts, picture, question = list(TOPICS), [], [], []
    for _ in range(cfg.groups_n):
        kind, n = int(rng.choice(3, p=shares / shares.sum())), cfg.asked_n
        drawn: list[tuple[str, Sequence[str]]]
        if kind == 0:
            facts = rng.choice(TRAINED_FACTS, n, replace=False)
            drawn = [(str(fact), draw_wordings(rng, fact, 2, 0.5)) for fact in facts]
        elif kind == 1:
            edits = draw_intents(rng, str(rng.choice(topics)), n, near_share=cfg.near_share)
            drawn = [(edit.intent.name, (edit.edit, edit.rephrase)) for edit in edits]
        else:
            rows = [free[i] for i in rng.choice(len(free), n, replace=False)]
            drawn = [(row.src.casefold(), (row.src, row.rephrase)) for row in rows]
        shown = 2 * int(rng.integers(entities_n)) + rng.integers(2, size=(n, 2))
        shown[:, 0] = shown[0, 0]
        prompts.append([(str(a), str(b)) for _, (a, b) in drawn])
        picture.append(shown)
        question.append([numbers.setdefault((kind, name), len(numbers)) for name, _ in drawn])
    return AskedGroups(prompts, np.array(picture), np.array(question))
