"""The metrics: one table, and what each says of a probe's line in `cases.jsonl`.

A metric is a kind of question that is asked after the edits. Its row here and the place that makes
its probes (`cases.py`) are all there is to it: results, tables, figures and pages follow the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Reference(NamedTuple):
    """What an answer is compared with: fields of the line, teacher-forced and free."""

    ids: str
    text: str


TARGET = Reference("target_ids", "target")
UNEDITED = Reference("before_ids", "before_generated")  # the unedited model's own answer

# name -> head of its column: the paper's, and that of what can fail where images gate the edits
AVERAGES = {"average": "Average", "average_of_four": "Of four"}
FOUR = tuple(AVERAGES)


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    name: str  # of its probes, and of its figure in `results.json`
    title: str  # of a narrow column
    asked: str  # what a page says was asked
    reference: Reference
    averages: tuple[str, ...] = ()  # those of AVERAGES that it is part of
    head: str = ""  # in the paper's table, which has all that are part of an average
    group: str | None = None  # the key of `results.json` under which it stands; None: beside others
    always: bool = True  # has a figure in every run, if only None; its hits count
    pictured: bool = True  # asked about a picture


METRICS = (
    Metric("reliability", "reliab.", "the edit, asked back", TARGET, FOUR, "Rel."),
    Metric("text_generality", "text gen.", "in other words", TARGET, FOUR, "T-Gen."),
    Metric("image_generality", "image gen.", "on another view", TARGET, FOUR, "M-Gen."),
    Metric(
        *("text_locality", "text loc.", "a question without a picture", UNEDITED),
        *(("average",), "T-Loc."),
        pictured=False,
    ),
    Metric("image_locality", "image loc.", "an unrelated picture", UNEDITED, FOUR, "M-Loc."),
    # The base was trained to answer questions about this drawing too, and it is another artist's.
    Metric("other_drawing", "other dr.", "on the other drawing", TARGET),
    Metric("third_drawing", "third dr.", "on a third artist's drawing", TARGET),
    # Facts of the same picture that no edit changes; no editor was trained on the held-out ones.
    Metric(
        *("same_image", "same image", "another question about the same picture", UNEDITED),
        group="hard_locality",
    ),
    Metric(
        *("same_image_held_out", "held-out fact", "a held-out fact of the same picture", UNEDITED),
        group="hard_locality",
    ),
    Metric(
        *("look_alike", "look-alike", "the same question about a look-alike", UNEDITED),
        group="hard_locality",
    ),
    # Questions about the edited picture whose answers take so many facts beside the edit.
    *(
        Metric(
            *(f"portability_{n}", f"portability {n}", f"{n} facts beside the edit", TARGET),
            group="portability",
            always=False,
        )
        for n in (1, 2, 3, 4)
    ),
)
EDIT = METRICS[0].name
BY_NAME = {metric.name: metric for metric in METRICS}
PLACE = {metric.name: i for i, metric in enumerate(METRICS)}
GROUPS = tuple(dict.fromkeys(metric.group for metric in METRICS if metric.group))
UNGROUPED = tuple(metric.name for metric in METRICS if metric.group is None)
COLUMNS = (*(metric.name for metric in METRICS if metric.averages), *AVERAGES)
HITTING = tuple(metric.name for metric in METRICS if metric.always and metric.pictured)


def average_members(average: str) -> tuple[str, ...]:
    """List the metrics of an average."""
    return tuple(metric.name for metric in METRICS if average in metric.averages)


def group_members(group: str) -> tuple[str, ...]:
    """List the metrics that stand under a key of `results.json`."""
    return tuple(metric.name for metric in METRICS if metric.group == group)


def is_targeted(name: str) -> bool:
    """Tell whether the answer should be the probe's target (else what it was)."""
    return BY_NAME[name].reference is TARGET


def label(name: str) -> str:
    """Write a metric or an average as a person reads it."""
    return name.replace("_", " ")


def title(name: str) -> str:
    """Write a metric or an average above a narrow column."""
    return BY_NAME[name].title if name in BY_NAME else name


def head(name: str) -> str:
    """Write one of COLUMNS as the paper's table has it."""
    return AVERAGES.get(name) or BY_NAME[name].head


def figure_of(entry: dict, name: str) -> float | None:
    """Read the figure of a metric or an average from an entry of `results.json`."""
    group = BY_NAME[name].group if name in BY_NAME else None
    return (entry if group is None else entry.get(group, {})).get(name)


def token_accuracy(predicted: Sequence[int], reference: Sequence[int]) -> float:
    """Count the share of answer positions (EOS is none) that agree.

    Raises:
        ValueError: different lengths, or no position at all.
    """
    if len(predicted) != len(reference) or not reference:
        raise ValueError(f"{len(predicted)} predictions for {len(reference)} answer tokens")
    return sum(p == r for p, r in zip(predicted, reference, strict=True)) / len(reference)


def teacher_forced(line: dict) -> float:
    """Score the answer under teacher forcing by token accuracy."""
    return token_accuracy(line["after_ids"], line[BY_NAME[line["probe"]].reference.ids])


def exact_match(line: dict) -> float:
    """Give 1 where free generation equals the reference, else 0."""
    reference = line[BY_NAME[line["probe"]].reference.text]
    return float(line["generated"].strip() == reference.strip())


def unedited(line: dict) -> dict:
    """Turn a line into that of the same probe had nothing been edited."""
    return line | {
        "after_ids": line["before_ids"],
        "generated": line["before_generated"],
        "hit_n": 0,
    }
