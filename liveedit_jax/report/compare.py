"""Finished runs, loaded, grouped by setup, and averaged over seeds."""

from __future__ import annotations

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveedit_jax.data.json_files import parse_json, read_json, read_lines
from liveedit_jax.evaluation.metrics import (
    AVERAGES,
    BY_NAME,
    METRICS,
    average_members,
    figure_of,
)
from liveedit_jax.presets import EDITORS, PRESETS
from liveedit_jax.report.foreign import (
    ADVICE,
    check_figures,
    check_line,
    check_settings,
    is_number,
)
from liveedit_jax.report.seeds import MeanStd, mean_std

REQUIRED = (*average_members("average"), "average")
ALWAYS = tuple(metric.name for metric in METRICS if metric.always)
COSTS = {"edit_ms": "edit, ms", "query_ms": "query, ms", "state_bytes": "memory an edit, kB"}
SHARED_SETTINGS = (
    *("config", "dataset", "backbone", "editor", "model"),
    *("split", "rows_sha256", "marks", "cases_n", "method"),
)
PLAIN = dict.fromkeys([*range(32), *range(127, 160), 0x2028, 0x2029], " ")  # on one line

TITLES = {
    "mojiedit": "MojiEdit",
    "evqa": "E-VQA",
    "eic": "E-IC",
    "vlkeb": "VLKEB",
    "liveedit": "LiveEdit",
    "ft_l": "FT-L",
    "ft_m": "FT-M",
    "mend": "MEND",
    "serac": "SERAC",
    "t_patcher": "T-Patcher",
    "lte": "LTE",
    "recipe": "RECIPE",
    "lemoe": "LEMoE",
    "grace": "GRACE",
    "wise": "WISE",
}


def display_name(name: str) -> str:
    """Return a name as tables print it: its first word may have a title, the rest stays."""
    first, *rest = re.split(r"(?= )", name.translate(PLAIN), maxsplit=1)
    return TITLES.get(first, first) + "".join(rest)


@dataclass(frozen=True)
class Run:
    """One finished run: its folder, settings and results."""

    folder: Path
    settings: dict  # of config.json
    results: dict  # results.json
    pictures: Path | None = None  # the folder that held the benchmark's pictures during the run

    @property
    def dataset(self) -> str:
        """Return the benchmark's name; the config's unless the run replaced it."""
        preset = PRESETS.get(self.settings["config"])
        return self.settings["dataset"] or (preset.dataset.name if preset else "mojiedit")

    @property
    def backbone(self) -> str:
        """Return the backbone's name; the config's unless the run replaced it."""
        config = self.settings["config"]
        return self.settings["backbone"] or (Path(config).stem if config[-3:] == ".py" else config)

    @property
    def editor(self) -> str:
        """Return the editor's name; LiveEdit of another size than the config's names the size."""
        name = self.settings["editor"]
        return "liveedit" if name is None else f"liveedit {name}" if name in EDITORS else name

    @property
    def last(self) -> dict:
        """Return the figures of the largest mark."""
        return self.results["marks"][-1]


@dataclass(frozen=True)
class Setup:
    """Runs that differ only in their seeds: one line of the comparison."""

    backbone: str
    dataset: str
    editor: str
    runs: tuple[Run, ...]

    @property
    def routes(self) -> bool:
        """Return whether its runs record which experts fired; runs of baselines do not."""
        return all(run.settings.get("method") is None for run in self.runs)

    @property
    def name(self) -> str:
        """Return backbone, dataset and editor for display."""
        return " · ".join(map(display_name, (self.backbone, self.dataset, self.editor)))


@dataclass(frozen=True)
class Row:
    """The figures of one setup after one number of edits."""

    backbone: str
    dataset: str
    editor: str
    edits: int
    runs_n: int
    values: dict[str, MeanStd]  # token accuracy, by metric and average
    hit_n: dict[str, MeanStd]  # mean number of hits, by metric
    costs: dict[str, MeanStd]  # keys: COSTS
    exact_match: dict[str, MeanStd] = field(default_factory=dict)  # by metric


def _read_object(folder: Path, name: str, missing: str) -> dict:
    file = folder / name
    if not file.is_file():
        raise ValueError(f"{folder}: no {name}; {missing}")
    try:
        value = read_json(file)
    except ValueError:
        raise ValueError(f"{folder}: {name} is damaged or cut off; {ADVICE}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{folder}: {name} is not a JSON object; {ADVICE}")
    return value


def _check(folder: Path, where: str, value: Any, fields: Sequence[str], kinds: tuple) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{folder}: {where} is not a JSON object; {ADVICE}")
    for name in fields:
        if name not in value:
            raise ValueError(f"{folder}: {where} lacks {name!r}; {ADVICE}")
        found = value[name]
        if isinstance(found, bool) or not isinstance(found, kinds):
            raise ValueError(f"{folder}: {where} has {name} = {ascii(found)[:60]}; {ADVICE}")


def _check_figures(folder: Path, where: str, entry: Any) -> None:
    _check(folder, where, entry, ("edits",), (int,))
    _check(folder, where, entry, REQUIRED, (int, float, type(None)))
    _check(folder, where, entry, ("hit_n_by_probe",), (dict,))
    known = (int, float, type(None))
    _check(folder, f"{where}.hit_n_by_probe", entry["hit_n_by_probe"], REQUIRED[:-1], known)
    check_figures(folder, where, entry)


def load_run(folder: str | Path) -> Run:
    """Load and check the run of a folder.

    Raises:
        ValueError: no such folder, an unfinished run, a damaged file, or a missing field.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the folders of finished evaluations")
    config = _read_object(folder, "config.json", "give the folder of an evaluation of this program")
    results = _read_object(folder, "results.json", "it is not finished: run its command again")
    _check(folder, "config.json", config, ("settings",), (dict,))
    settings = config["settings"]
    _check(folder, "config.json", settings, ("config", "split"), (str,))
    _check(folder, "config.json", settings, ("dataset", "backbone", "editor"), (str, type(None)))
    _check(folder, "config.json", settings, ("model",), (dict,))
    _check(folder, "config.json", settings, ("seed",), (int, type(None)))
    _check(folder, "config.json", settings, ("marks",), (list,))
    _check(folder, "results.json", results, ("marks",), (list,))
    check_settings(folder, settings)
    if results.get("seconds") is not None and not is_number(results["seconds"]):
        raise ValueError(f"{folder}: results.json has seconds that are no number; {ADVICE}")
    if not results["marks"]:
        raise ValueError(f"{folder}: results.json has no marks; {ADVICE}")
    for i, mark in enumerate(results["marks"]):
        _check_figures(folder, f"results.json marks[{i}]", mark)
    pictures = config.get("pictures")
    return Run(folder, settings, results, Path(pictures) if isinstance(pictures, str) else None)


def run_lines(run: Run, name: str, fields: Sequence[str]) -> Iterator[dict]:
    """Yield the lines of one of a run's JSON-lines files; none if there is no such file.

    Raises:
        ValueError: a line is damaged or lacks one of `fields`.
    """
    file = run.folder / name
    if not file.is_file():
        return
    for i, text in read_lines(file):
        line = None
        with contextlib.suppress(ValueError):
            line = None if text is None else parse_json(text, name)
        if not isinstance(line, dict):
            raise ValueError(f"{run.folder}: line {i} of {name} is damaged; {ADVICE}")
        if missing := [field for field in fields if field not in line]:
            raise ValueError(f"{run.folder}: line {i} of {name} lacks {missing[0]!r}; {ADVICE}")
        check_line(run.folder, name, i, line)
        yield line


def _setup_key(run: Run) -> dict:
    """Return everything in which two runs of one setup have to agree."""
    names = {"dataset": run.dataset, "backbone": run.backbone}
    return {name: run.settings.get(name) for name in SHARED_SETTINGS} | names


def _difference(key: dict, others: Sequence[dict]) -> str:
    """Describe in brackets how this key differs from others of the same names."""

    def words(name: str) -> str:
        value = key[name]
        if name == "model":
            value = value.values() if isinstance(value, dict) else [value]
            return "model " + "/".join(str(part)[:6] for part in value)
        if name == "rows_sha256":
            return f"rows {str(value)[:6]}"
        if isinstance(value, dict):
            return f"{name} " + ", ".join(f"{k} {v}" for k, v in value.items())
        if isinstance(value, list):
            return f"{name} " + "/".join(map(str, value))
        return f"{name.removesuffix('_n')} {value}"

    differ = [name for name in key if any(key[name] != other[name] for other in others)]
    return f" ({'; '.join(map(words, differ))})" if differ else ""


def _sort_seeds(seeds: Iterable[int | None]) -> list[int | None]:
    """Sort seeds; a benchmark's own order (None) comes before the shuffled ones."""
    return sorted(seeds, key=lambda seed: (seed is not None, seed))


def group_runs(runs: Sequence[Run]) -> list[Setup]:
    """Group runs that differ only in their seeds.

    Where setups agree in all three names, what tells them apart is added to the editor's name.

    Raises:
        ValueError: two runs have the same settings and seed.
    """
    parts: dict[tuple, dict[str, tuple]] = defaultdict(dict)  # names -> key -> (key, by seed)
    for run in runs:
        key, seed = _setup_key(run), run.settings["seed"]
        names = (run.backbone, run.dataset, run.editor)
        _, by_seed = parts[names].setdefault(json.dumps(key, sort_keys=True), (key, {}))
        if seed in by_seed:
            raise ValueError(
                f"{by_seed[seed].folder} and {run.folder} have the same settings and seed"
                f" {seed}; give one of them"
            )
        by_seed[seed] = run
    setups = []
    for (backbone, dataset, editor), keyed in parts.items():
        keys = [key for key, _ in keyed.values()]
        for key, by_seed in keyed.values():
            held = tuple(by_seed[seed] for seed in _sort_seeds(by_seed))
            setups.append(Setup(backbone, dataset, editor + _difference(key, keys), held))
    return setups


def table_rows(setups: Sequence[Setup]) -> list[Row]:
    """Make the rows of the table, ordered by backbone and dataset, then edits, then setup."""
    rows = []
    for setup in setups:
        every = [entry for run in setup.runs for entry in run.results["marks"]]
        for edits in sorted({entry["edits"] for entry in every}):
            held = [entry for entry in every if entry["edits"] == edits]
            values = {
                name: mean_std([figure_of(entry, name) for entry in held])
                for name in (*BY_NAME, *AVERAGES)
            }
            exact = {
                name: mean_std([entry.get("exact_match", {}).get(name) for entry in held])
                for name in BY_NAME
            }
            hits = {p: mean_std([entry["hit_n_by_probe"].get(p) for entry in held]) for p in ALWAYS}
            costs = {name: mean_std([entry.get(name) for entry in held]) for name in COSTS}
            names = (setup.backbone, setup.dataset, setup.editor)
            rows.append(Row(*names, edits, len(held), values, hits, costs, exact))
    places = list(dict.fromkeys((row.backbone, row.dataset) for row in rows))
    return sorted(rows, key=lambda row: (places.index((row.backbone, row.dataset)), row.edits))


def rows_of(setup: Setup, rows: Sequence[Row]) -> list[Row]:
    """Return a setup's rows, by rising edits."""
    names = (setup.backbone, setup.dataset, setup.editor)
    return [row for row in rows if (row.backbone, row.dataset, row.editor) == names]


def points(figures: dict[int, MeanStd]) -> list[tuple[int, float, float | None]]:
    """List the known figures as (edits, mean, deviation), by rising edits."""
    return [(n, f.mean, f.std) for n, f in sorted(figures.items()) if f.mean is not None and n > 0]
