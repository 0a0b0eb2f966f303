"""The lifelong evaluation of a model on a benchmark, as the command line and scripts run it."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import liveedit_jax
from liveedit_jax.backbones import Backbone
from liveedit_jax.baselines.table import BASELINES, TRAINED, get_baseline
from liveedit_jax.config import Preset
from liveedit_jax.data.annotations import PROMPTS
from liveedit_jax.data.missing import select_readable
from liveedit_jax.data.records import Record
from liveedit_jax.data.third_drawing import font_sha256
from liveedit_jax.editor.as_editor import LiveEdit
from liveedit_jax.editors import Editor
from liveedit_jax.evaluation.cases import (
    BenchmarkFiles,
    Stream,
    benchmark_cases,
    cases_sha256,
    make_cases,
    stream_cases,
)
from liveedit_jax.evaluation.engine import Schedule
from liveedit_jax.evaluation.lifelong import Draw, evaluate
from liveedit_jax.evaluation.metrics import AVERAGES, ORDER, UNGROUPED, figure_of, title
from liveedit_jax.evaluation.released import write_released
from liveedit_jax.evaluation.retention import retention_case
from liveedit_jax.evaluation.subject import ModelParts
from liveedit_jax.model_io.model import Model, load_model, model_folder, no_editor
from liveedit_jax.model_io.weights import load_weights
from liveedit_jax.presets import preset

METHODS = ("liveedit", *BASELINES)


@dataclass(frozen=True)
class RunSpec:
    """The model and the stream of an evaluation."""

    config: str = "tiny"  # a preset
    dataset: str | None = None  # this and the next two replace parts of the preset, by name
    backbone: str | None = None
    editor: str | None = None  # a size of LiveEdit, or one of METHODS
    model: str | None = None  # model folder; None: the one shipped for the preset
    split: str = "eval"
    seed: int | None = 0  # of the stream, or of a benchmark's order (None: the order of its file)
    marks: tuple[int, ...] = (1, 10, 100, 1000)  # numbers of edits
    cases_n: int | None = None  # cases that smaller marks count; None: the preset's
    files: BenchmarkFiles | None = None  # of a public benchmark
    noto: str | None = None  # font file of the third drawings (data/third_drawing.py)
    refine_n: int | None = None  # steps of LiveEdit's refining; None: those of the model's config

    @property
    def preset(self) -> Preset:
        """Return the preset with its parts replaced."""
        size = None if self.editor in METHODS else self.editor
        return preset(self.config, self.dataset, self.backbone, size)

    @property
    def baseline(self) -> str | None:
        """Return the name of the baseline; None where LiveEdit is evaluated."""
        return self.editor if self.editor in BASELINES else None


def run(
    spec: RunSpec,
    out: str | Path,
    begin: float,
    schedule: Schedule | None = None,
    draw: Draw | None = None,
) -> dict:
    """Evaluate a model and write the run folder; returns the content of results.json.

    Args:
        spec: the model and the stream.
        out: the run folder; an interrupted run with the same settings is resumed there.
        begin: `time.time()` at the start of the process.
        schedule: the marks, and the sizes of batches and blocks; None: the marks of `spec`.
        draw: draws the finished run (`report.run_page.draw_run`); None: write numbers only.

    Raises:
        KeyError: an unknown name.
        ValueError: marks or cases that no stream has, a damaged model, or a folder that holds
            another run.
        FileNotFoundError: no model.
    """
    wanted, sized = spec.preset, spec.editor is not None and spec.editor not in METHODS
    overridden = spec.backbone is not None or sized
    model = load_model(spec.model or spec.config, wanted if overridden else None)
    cfg = model.config
    cases_n = cfg.evaluation.cases_n if spec.cases_n is None else spec.cases_n
    if cases_n is not None and cases_n < 1:
        raise ValueError(f"cases={cases_n}: give 1 or more")
    name = wanted.dataset.name
    stream = open_stream(spec, cfg, name, cases_n)
    if cases_n is None:
        cases_n = max(spec.marks) if spec.files is None else len(stream.cases)
    schedule = schedule or Schedule(spec.marks, cases_n=cases_n)
    parts, method = make_parts(spec, model)
    settings = {
        **_settings(spec, model),
        "third_drawings": font_sha256(spec.noto) if name == "mojiedit" else None,
        **({} if spec.files is None else {"rows_sha256": stream.rows_sha256, "dataset": name}),
        "cases_n": cases_n,
        **method,
    }
    retention = retention_case(cfg.backbone.drawing_size) if name == "mojiedit" else None
    results = evaluate(
        parts, stream.cases, schedule, settings, out, begin, stream.pictures, retention, draw
    )
    if spec.files is not None:
        folder = Path(out) / "released"
        write_released(Path(out), folder, model.tokenizer.decode, spec.seed)
    return results


def run_records(
    name: str,
    model: Model,
    records: Sequence[Record],
    marks: Sequence[int],
    out: str | Path,
    begin: float,
    cases_n: int | None = None,
    draw: Draw | None = None,
    refine_n: int | None = None,
) -> dict:
    """Evaluate an editor on given records, in their order; writes and returns the same as `run`.

    Args:
        name: the editor, one of METHODS.
        model: the model.
        records: the stream, all of one benchmark.
        marks: numbers of edits.
        out, begin, draw: as in `run`.
        cases_n: cases that smaller marks count; None: all.
        refine_n: as in `RunSpec`.

    Raises:
        KeyError: an unknown editor.
        ValueError: bad marks or records, a picture that cannot be decoded, a model or editor that
            cannot be evaluated, a folder of another run.
        FileNotFoundError: the model has no weights of this editor.
    """
    if name not in METHODS:
        raise KeyError(f"unknown editor {name!r}; known: {', '.join(METHODS)}")
    pictures, records = getattr(records, "pictures", None), list(records)  # of a BenchmarkSource
    if not records:
        raise ValueError("no records: give at least as many as the largest mark")
    dataset, *others = {record.dataset for record in records}
    if others or dataset not in (None, *PROMPTS):
        named = ", ".join(map(str, [dataset, *others]))
        raise ValueError(f"records of {named}: give those of one of {', '.join(PROMPTS)}")
    select_readable(records, model.config.backbone)
    spec = RunSpec(
        config=model.config_name,
        dataset=dataset,
        editor=name,
        model=str(model.folder),
        split="+".join(sorted({record.split for record in records})),
        seed=None,
        marks=tuple(marks),
        cases_n=len(records) if cases_n is None else cases_n,
        refine_n=refine_n,
    )
    cases = make_cases(records, pictures)
    parts, method = make_parts(spec, model)
    settings = {**_settings(spec, model), "rows_sha256": cases_sha256(cases), **method}
    retention = None
    if dataset == "mojiedit":
        retention = retention_case(model.config.backbone.drawing_size)
    schedule = Schedule(spec.marks, cases_n=spec.cases_n)
    return evaluate(parts, cases, schedule, settings, out, begin, pictures, retention, draw)


def _settings(spec: RunSpec, model: Model) -> dict:
    """Return the settings that identify a run."""
    chosen = {k: v for k, v in asdict(spec).items() if k not in ("files", "noto")}
    hashes = {"backbone": model.backbone_sha256, "editor": model.editor_sha256}
    return chosen | {"model": hashes, "commit": git_commit(), "code_sha256": code_sha256()}


def make_parts(spec: RunSpec, model: Model) -> tuple[ModelParts, dict]:
    """Join a model with the editor of a spec; also returns what the settings say of a baseline.

    Raises:
        ValueError, FileNotFoundError: as `load_baseline`, the model has no editor, or a baseline
            is to refine.
    """
    trained, method, cfg = model.editor, {}, model.config.editor
    if spec.refine_n is not None:
        if spec.baseline is not None:
            raise ValueError(f"refining is LiveEdit's: {spec.baseline} has no such option here")
        cfg = replace(cfg, refine_n=spec.refine_n)
    editor: Editor = LiveEdit(cfg)
    if spec.baseline is not None:
        editor, trained, made_by = load_baseline(spec, model.backbone_sha256)
        method = {"method": {"settings": asdict(editor), "weights": made_by}}
    elif trained is None:
        raise ValueError(no_editor(model.folder))
    backbone = Backbone(model.config.backbone)
    return ModelParts(backbone, model.backbone, model.tokenizer, editor, trained), method


def load_baseline(spec: RunSpec, backbone_sha256: str) -> tuple[Editor, Any, str | None]:
    """Return a baseline, its weights and their sha256 (both None where it needs no training).

    Raises:
        FileNotFoundError: it needs weights, and the model's folder has none for it.
        ValueError: damaged weights, or weights trained on another backbone.
    """
    name = spec.baseline
    assert name is not None
    editor = get_baseline(name, spec.config)
    if name not in TRAINED:
        return editor, None, None
    folder = model_folder(spec.model or spec.config) / "baselines" / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no weights of {name} at {folder}: train them with train_editor --editor {name}"
        )
    weights, recipe = load_weights(folder)
    if recipe["backbone_sha256"] != backbone_sha256:
        raise ValueError(
            f"{folder} was trained on another backbone ({recipe['backbone_sha256'][:12]}, not "
            f"{backbone_sha256[:12]}): train it again with train_editor --editor {name}"
        )
    return editor, weights, recipe["sha256"]


def open_stream(spec: RunSpec, cfg: Preset, name: str, cases_n: int | None) -> Stream:
    """Read or generate the cases to evaluate on.

    Raises:
        ValueError: the benchmark has too few cases.
        KeyError, FileNotFoundError: as `load_benchmark`.
    """
    if name != "mojiedit":
        if spec.files is None:
            raise ValueError(f"{name} is read from its own files: give --manual-dir FOLDER")
        most = None if cases_n is None else max(cases_n, *spec.marks)
        stream = benchmark_cases(name, spec.split, spec.seed, most, spec.files, cfg.backbone)
        if max(spec.marks) > len(stream.cases):
            raise ValueError(f"{max(spec.marks)} edits: {name} has {len(stream.cases)} cases here")
        return stream
    if spec.files is not None:
        raise ValueError("--manual-dir is for public benchmarks; mojiedit is made, not read")
    stream_n = max(cases_n or 1, *spec.marks)
    side = cfg.backbone.drawing_size
    return Stream(stream_cases(spec.split, spec.seed or 0, stream_n, side, spec.noto))


def git_commit() -> str | None:
    """Return this code's git commit; None outside a repository.

    Where files of the package differ from it, "-dirty-" and the beginning of their sha256 follow.
    """
    here = Path(liveedit_jax.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(("git", *words), cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", ":(glob)**/*.py")
        return git("rev-parse", "HEAD") + (f"-dirty-{code_sha256()[:12]}" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def code_sha256() -> str:
    """Compute the sha256 of the package's Python files, as they were when it was first asked."""
    here, digest = Path(liveedit_jax.__file__).parent, hashlib.sha256()
    for file in sorted(here.rglob("*.py")):
        digest.update(f"{file.relative_to(here).as_posix()} ".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def format_table(results: dict) -> str:
    """Format the figures as plain text: token accuracy, and exact match in brackets."""
    rows = [("unedited", results["unedited"])]
    rows += [(f"{mark['edits']:,} edits", mark) for mark in results["marks"]]
    asked = {name for _, row in rows for name in row["exact_match"]}
    others = [name for name in ORDER if name in asked and name not in UNGROUPED]
    names = (*UNGROUPED, *AVERAGES, *others)
    lines = [" " * 17 + "".join(f"{title(name):>14}" for name in names)]
    for row_title, row in rows:
        cells = [_cell(figure_of(row, name), row["exact_match"].get(name)) for name in names]
        lines.append(f"{row_title:<17}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _cell(value: float | None, exact: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if exact is None else f"{value:.1f} ({exact:.0f})"


def parse_marks(text: str) -> tuple[int, ...]:
    """Parse numbers of edits like "1,10,100".

    Raises:
        ValueError: anything else.
    """
    return _parse_numbers(text, f"marks {text[:40]!r}: give numbers of edits like 1,10,100")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse different seeds like "0,1,2": one run that counted twice would seem to be certain.

    Raises:
        ValueError: anything else.
    """
    said = f"seeds {text[:40]!r}: give different numbers like 0,1,2"
    seeds = _parse_numbers(text, said)
    if len(set(seeds)) < len(seeds):
        raise ValueError(said)
    return seeds


def _parse_numbers(text: str, said: str) -> tuple[int, ...]:
    """Parse whole numbers of plain digits (Python itself also takes 1_0)."""
    if not re.fullmatch("[0-9]{1,18}(,[0-9]{1,18})*", text):
        raise ValueError(said)
    return tuple(map(int, text.split(",")))
