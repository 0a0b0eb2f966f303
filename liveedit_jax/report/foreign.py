"""Checks of a run folder's contents: somebody else may have sent it.

What is not what an evaluation writes is refused in one line that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from liveedit_jax.evaluation.metrics import AVERAGES, GROUPS, UNGROUPED

ADVICE = "evaluate again into a new folder"
COUNT_MOST = 10**9  # edits, cases, hits
TEXT_MOST = 10**5  # characters
PERCENT_MOST = 100.001  # sums of floats round
SHOWN_N = 60  # characters of a value in an error

Check = Callable[[Any], bool]


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number that can count something."""
    return type(value) is int and 0 <= value <= COUNT_MOST


def is_number(value: Any) -> bool:
    """Return whether a value is a number that a chart can show."""
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= 1e18


def is_percent(value: Any) -> bool:
    """Return whether a value is a percentage."""
    return is_number(value) and 0 <= value <= PERCENT_MOST


def is_text(value: Any) -> bool:
    """Return whether a value is a text that can be written to a file."""
    if not isinstance(value, str) or len(value) > TEXT_MOST:
        return False
    return not any("\ud800" <= c <= "\udfff" for c in value)


def _is_seed(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**64


def _is_experts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and is_count(pair[0]) and is_number(pair[1])
        for pair in value
    )


def _is_margin(value: Any) -> bool:
    return is_number(value) or (isinstance(value, list) and all(map(is_number, value)))


def _is_hashes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_text(name) and (text is None or is_text(text)) for name, text in value.items()
    )


SETTINGS: dict[str, tuple[Check, bool]] = {  # a check, and whether the value may be None
    "config": (is_text, False),
    "split": (is_text, False),
    **dict.fromkeys(("dataset", "backbone", "editor", "commit", "rows_sha256"), (is_text, True)),
    "model": (_is_hashes, False),
    "seed": (_is_seed, True),
    "marks": (lambda value: isinstance(value, list) and all(map(is_count, value)), False),
    "cases_n": (is_count, True),
    "method": (lambda value: isinstance(value, dict), True),
}
RESULTS: dict[str, tuple[Check, bool]] = {
    "edits": (is_count, False),
    "cases": (is_count, True),
    **dict.fromkeys(("edit_ms", "query_ms", "state_bytes"), (is_number, True)),
    **dict.fromkeys((*UNGROUPED, *AVERAGES), (is_percent, True)),
}
LINE: dict[str, tuple[Check, bool]] = {
    **dict.fromkeys(("mark", "case", "nth", "hit_n"), (is_count, False)),
    **dict.fromkeys(("probe", "prompt", "target"), (is_text, False)),
    **dict.fromkeys(("generated", "before_generated"), (is_text, False)),
    "entity": (lambda value: is_text(value) or type(value) is int, False),
    **dict.fromkeys(("fact", "image", "image_sha256"), (is_text, True)),
    "experts": (_is_experts, False),
    "kept": (is_number, False),
    "margin": (_is_margin, True),
}


def _refuse(folder: Path, where: str, name: str, value: Any) -> None:
    shown = ascii(value)
    shown = shown if len(shown) <= SHOWN_N else f"{shown[:SHOWN_N]}..."
    raise ValueError(f"{folder}: {where} has {name} = {shown}; {ADVICE}")


def _check(
    folder: Path, where: str, values: Mapping, table: Mapping[str, tuple[Check, bool]]
) -> None:
    for name, (is_right, may_lack) in table.items():
        value = values.get(name)
        if name in values and not (is_right(value) or (value is None and may_lack)):
            _refuse(folder, where, name, value)


def check_settings(folder: Path, settings: Mapping) -> None:
    """Check the settings of config.json, of which none is missing.

    Raises:
        ValueError: one is not what an evaluation writes.
    """
    _check(folder, "config.json", settings, SETTINGS)


def check_figures(folder: Path, where: str, entry: Mapping) -> None:
    """Check the figures of an entry of results.json.

    Raises:
        ValueError: one is no percentage, count or time.
    """
    _check(folder, where, entry, RESULTS)
    for group, is_right in (
        ("hit_n_by_probe", is_number),
        *((name, is_percent) for name in ("exact_match", *GROUPS)),
    ):
        figures = entry.get(group, {})
        if not isinstance(figures, dict):
            _refuse(folder, where, group, figures)
        every: Iterable[str] = figures
        _check(folder, f"{where}.{group}", figures, dict.fromkeys(every, (is_right, True)))


def check_line(folder: Path, name: str, i: int, line: Mapping) -> None:
    """Check a line of cases.jsonl or routes.jsonl, of which no field is missing.

    Raises:
        ValueError: a field is not what an evaluation writes.
    """
    _check(folder, f"line {i} of {name}", line, LINE)
