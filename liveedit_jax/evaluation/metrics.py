"""The metrics: one table, and what each says of a probe's line in `cases.jsonl`.

A metric is a kind of question that is asked after the edits. Its row here and the place that makes
its probes (`cases.py`) are all there is to it: results, tables, figures and pages follow the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Reference(NamedTuple):
    """The fields of a line that an answer is compared with, teacher-forced and free."""

    ids: str
    text: str


TARGET = Reference("target_ids", "target")
UNEDITED = Reference("before_ids", "before_generated")  # the unedited model's own answer

# name -> head of its column: the paper's, and that of what can fail where images gate the edits
AVERAGES = {"average": "Average", "average_of_four": "Of four"}
FOUR = tuple(AVERAGES)  # those that a metric is part of that can fail


@dataclass(frozen=True, kw_only=True)
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
    Metric(
        name="reliability",
        title="reliab.",
        head="Rel.",
        asked="the edit, asked back",
        reference=TARGET,
        averages=FOUR,
    ),
    Metric(
        name="text_generality",
        title="text gen.",
        head="T-Gen.",
        asked="in other words",
        reference=TARGET,
        averages=FOUR,
    ),
    Metric(
        name="image_generality",
        title="image gen.",
        head="M-Gen.",
        asked="on another view",
        reference=TARGET,
        averages=FOUR,
    ),
    Metric(
        name="text_locality",
        title="text loc.",
        head="T-Loc.",
        asked="a question without a picture",
        reference=UNEDITED,
        averages=("average",),
        pictured=False,
    ),
    Metric(
        name="image_locality",
        title="image loc.",
        head="M-Loc.",
        asked="an unrelated picture",
        reference=UNEDITED,
        averages=FOUR,
    ),
    # The base was trained to answer questions about this drawing too, and it is another artist's.
    Metric(
        name="other_drawing",
        title="other dr.",
        asked="on the other drawing",
        reference=TARGET,
    ),
    Metric(
        name="third_drawing",
        title="third dr.",
        asked="on a third artist's drawing",
        reference=TARGET,
    ),
    # Facts of the same picture that no edit changes; no editor was trained on the held-out ones.
    Metric(
        name="same_image",
        title="same image",
        asked="another question about the same picture",
        reference=UNEDITED,
        group="hard_locality",
    ),
    Metric(
        name="same_image_held_out",
        title="held-out fact",
        asked="a held-out fact of the same picture",
        reference=UNEDITED,
        group="hard_locality",
    ),
    Metric(
        name="look_alike",
        title="look-alike",
        asked="the same question about a look-alike",
        reference=UNEDITED,
        group="hard_locality",
    ),
    # Questions about the edited picture whose answers take so many facts beside the edit.
    *(
        Metric(
            name=f"portability_{n}",
            title=f"portability {n}",
            asked=f"{n} facts beside the edit",
            reference=TARGET,
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
