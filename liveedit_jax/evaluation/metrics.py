"""The metrics of one probe, pure functions on what `cases.jsonl` holds of it."""

from __future__ import annotations

from collections.abc import Sequence

from liveedit_jax.evaluation.probes import TARGETED


def token_accuracy(predicted: Sequence[int], reference: Sequence[int]) -> float:
    """The share of answer positions (EOS is none) that agree.

    Raises:
        ValueError: different lengths, or no position at all.
    """
    if len(predicted) != len(reference) or not reference:
        raise ValueError(f"{len(predicted)} predictions for {len(reference)} answer tokens")
    return sum(p == r for p, r in zip(predicted, reference, strict=True)) / len(reference)


def teacher_forced(line: dict) -> float:
    """Token accuracy against the target, or for locality against the argmax before editing."""
    reference = "target_ids" if line["probe"] in TARGETED else "before_ids"
    return token_accuracy(line["after_ids"], line[reference])


def exact_match(line: dict) -> float:
    """1 where free generation equals the target, or for locality the unedited generation."""
    reference = line["target"] if line["probe"] in TARGETED else line["before_generated"]
    return float(line["generated"].strip() == reference.strip())


def unedited(line: dict) -> dict:
    """The same probe had nothing been edited."""
    return line | {
        "after_ids": line["before_ids"],
        "generated": line["before_generated"],
        "hit_n": 0,
    }
