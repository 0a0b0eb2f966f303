"""The table of metrics, and how a probe's line in `cases.jsonl` is scored.

A metric is a kind of question asked after the edits. To add one, add its row here and make its
probes in `cases.py`; results, tables, figures and pages follow this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Reference(NamedTuple):
    """The fields of a line that an answer is compared with: token ids, and generated text."""

    ids: str
    text: str


TARGET = Reference("target_ids", "target")
UNEDITED = Reference("before_ids", "before_generated")  # the unedited model's own answer

# name -> head of its column. The paper averages five metrics; the second average leaves out text
# locality, which is 100 by construction where an edit acts only on questions with an image.
AVERAGES = {"average": "Average", "average_of_four": "Of four"}
BOTH = tuple(AVERAGES)  # both averages: of a metric that is one of the four


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row of the table of metrics."""

    name: str  # of its probes, and the key of its figure in `results.json`
    title: str  # of a narrow column
    question: str  # describes the question on a page
    reference: Reference  # what the answer should be
    averages: tuple[str, ...] = ()  # those of AVERAGES that it is part of
    head: str = ""  # its column in the paper's table, which has all metrics of an average
    group: str | None = None  # the key of `results.json` that holds it; None: the top level
    always: bool = True  # has a figure (maybe None) in every run, and its hits are counted
    has_picture: bool = True  # asked about a picture


METRICS = (
    Metric(
        name="reliability",
        title="reliab.",
        head="Rel.",
        question="the edit, asked back",
        reference=TARGET,
        averages=BOTH,
    ),
    Metric(
        name="text_generality",
        title="text gen.",
        head="T-Gen.",
        question="in other words",
        reference=TARGET,
        averages=BOTH,
    ),
    Metric(
        name="image_generality",
        title="image gen.",
        head="M-Gen.",
        question="on another view",
        reference=TARGET,
        averages=BOTH,
    ),
    Metric(
        name="text_locality",
        title="text loc.",
        head="T-Loc.",
        question="a question without a picture",
        reference=UNEDITED,
        averages=("average",),
        has_picture=False,
    ),
    Metric(
        name="image_locality",
        title="image loc.",
        head="M-Loc.",
        question="an unrelated picture",
        reference=UNEDITED,
        averages=BOTH,
    ),
    # Another artist's drawing, about which the base model was trained to answer questions, too.
    Metric(
        name="other_drawing",
        title="other dr.",
        question="on the other drawing",
        reference=TARGET,
    ),
    Metric(
        name="third_drawing",
        title="third dr.",
        question="on a third artist's drawing",
        reference=TARGET,
    ),
    # Facts of the same picture that no edit changes; no editor was trained on the held-out ones.
    Metric(
        name="same_image",
        title="same image",
        question="another question about the same picture",
        reference=UNEDITED,
        group="hard_locality",
    ),
    Metric(
        name="same_image_held_out",
        title="held-out fact",
        question="a held-out fact of the same picture",
        reference=UNEDITED,
        group="hard_locality",
    ),
    Metric(
        name="look_alike",
        title="look-alike",
        question="the same question about a look-alike",
        reference=UNEDITED,
        group="hard_locality",
    ),
    # Questions about the edited picture whose answers need the edit and n further facts.
    *(
        Metric(
            name=f"portability_{n}",
            title=f"portability {n}",
            question=f"{n} facts beside the edit",
            reference=TARGET,
            group="portability",
            always=False,
        )
        for n in (1, 2, 3, 4)
    ),
)
EDIT = METRICS[0].name
BY_NAME = {metric.name: metric for metric in METRICS}
ORDER = {metric.name: i for i, metric in enumerate(METRICS)}
GROUPS = tuple(dict.fromkeys(metric.group for metric in METRICS if metric.group))
UNGROUPED = tuple(metric.name for metric in METRICS if metric.group is None)
COLUMNS = (*(metric.name for metric in METRICS if metric.averages), *AVERAGES)
HIT_METRICS = tuple(metric.name for metric in METRICS if metric.always and metric.has_picture)


def average_members(average: str) -> tuple[str, ...]:
    """List the metrics of an average."""
    return tuple(metric.name for metric in METRICS if average in metric.averages)


def group_members(group: str) -> tuple[str, ...]:
    """List the metrics of a group, the key of `results.json` that holds them."""
    return tuple(metric.name for metric in METRICS if metric.group == group)


def is_targeted(name: str) -> bool:
    """Return whether the answer should be the probe's target (else the unedited answer)."""
    return BY_NAME[name].reference is TARGET


def label(name: str) -> str:
    """Return the display name of a metric or an average."""
    return name.replace("_", " ")


def title(name: str) -> str:
    """Return the title of a metric or an average for a narrow column."""
    return BY_NAME[name].title if name in BY_NAME else name


def head(name: str) -> str:
    """Return the head of a column: the one of the paper's table, where that has it."""
    return AVERAGES.get(name) or BY_NAME[name].head or BY_NAME[name].title.capitalize()


def figure_of(entry: dict, name: str) -> float | None:
    """Read the figure of a metric or an average from an entry of `results.json` (or None)."""
    group = BY_NAME[name].group if name in BY_NAME else None
    return (entry if group is None else entry.get(group, {})).get(name)


def token_accuracy(predicted: Sequence[int], reference: Sequence[int]) -> float:
    """Compute the share of answer positions that agree; EOS is not one of them.

    Raises:
        ValueError: different lengths, or no position at all.

    Examples:
        >>> token_accuracy([7, 8, 9, 4], [7, 8, 9, 5])
        0.75
    """
    if len(predicted) != len(reference) or not reference:
        raise ValueError(f"{len(predicted)} predictions for {len(reference)} answer tokens")
    return sum(p == r for p, r in zip(predicted, reference, strict=True)) / len(reference)


def forced_accuracy(line: dict) -> float:
    """Compute the teacher-forced token accuracy of a line's answer against its reference."""
    return token_accuracy(line["after_ids"], line[BY_NAME[line["probe"]].reference.ids])


def exact_match(line: dict) -> float:
    """Return 1 where a line's free generation equals its reference, else 0.

    Examples:
        >>> exact_match({"probe": "reliability", "target": "fox", "generated": " fox"})
        1.0
    """
    reference = line[BY_NAME[line["probe"]].reference.text]
    return float(line["generated"].strip() == reference.strip())


def as_unedited(line: dict) -> dict:
    """Return the line as it would be had nothing been edited."""
    return line | {
        "after_ids": line["before_ids"],
        "generated": line["before_generated"],
        "hit_n": 0,
    }
