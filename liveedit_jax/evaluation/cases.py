"""Cases of the protocol, made from the records of a benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.data import edit_stream
from liveedit_jax.data.annotations import PROMPTS
from liveedit_jax.data.facts import HELD_OUT_FACTS
from liveedit_jax.data.missing import select_readable
from liveedit_jax.data.prompts import PLAIN_PROMPTS, Prompts
from liveedit_jax.data.records import Record
from liveedit_jax.evaluation.probes import Case, Probe, image_key


def make_case(
    record: Record, prompts: Prompts = PLAIN_PROMPTS, pictures: Path | None = None
) -> Case:
    """Make the case of one record; its pictures stay encoded until they are read.

    Args:
        record: the record.
        prompts: the benchmark's prompt templates.
        pictures: the folder that the file names of its pictures are relative to; None where the
            pictures are not files.
    """

    def shown(metric: str, prompt: str, target: str, image: bytes | Path) -> Probe:
        file = (
            None
            if isinstance(image, bytes) or pictures is None
            else image.relative_to(pictures).as_posix()
        )
        return Probe(metric, prompt, target, image, file)

    src, rephrase = prompts.edit.format(record.src), prompts.edit.format(record.rephrase)
    text, image = prompts.text_locality.format(record.loc), prompts.image_locality
    drawings = {
        "other_drawing": record.other_drawing,
        "third_drawing": record.third_drawing,
    }
    probes = [
        shown("reliability", src, record.alt, record.image),
        shown("text_generality", rephrase, record.alt, record.image),
        shown("image_generality", src, record.alt, record.image_rephrase),
        *(shown(name, src, record.alt, d) for name, d in drawings.items() if d is not None),
        Probe("text_locality", text, record.loc_ans, None),
        shown("image_locality", image.format(record.m_loc_q), record.m_loc_a, record.m_loc),
    ]
    ports = {port.hops: port for port in reversed(record.port)}  # the first question of each length
    for hops in dict.fromkeys(port.hops for port in record.port):
        question = prompts.edit.format(ports[hops].question)
        probes.append(shown(f"portability_{hops}", question, ports[hops].answer, record.image))
    for other in record.same_image:
        name = "same_image_held_out" if other.fact in HELD_OUT_FACTS else "same_image"
        probes.append(shown(name, other.question, other.answer, record.image))
    if record.look_alike is not None and record.look_alike_a is not None:
        probes.append(shown("look_alike", src, record.look_alike_a, record.look_alike))
    return Case(record.entity, record.fact, tuple(probes))


def stream_cases(
    split: str, seed: int, n: int, image_size: int, noto: str | Path | None = None
) -> list[Case]:
    """Return the first `n` cases of a MojiEdit stream, with drawings of `image_size` pixels.

    The probes `same_image` ask for all facts of the edited entity that none of the `n` edits
    changes.

    Raises:
        ValueError, FileNotFoundError: as `edit_stream`.
    """
    return make_cases(list(edit_stream(split, seed, n, image_size=image_size, noto=noto)))


def make_cases(records: Sequence[Record], pictures: Path | None = None) -> list[Case]:
    """Make the cases of records, in their order, with their benchmarks' prompt templates.

    The probes `same_image` ask for all facts of the edited entity that none of the records changes.

    Args:
        records: the records.
        pictures: the folder that the file names of their pictures are relative to; None where the
            pictures are not files.
    """
    edited = {(record.entity, record.fact) for record in records}

    def make(record: Record) -> Case:
        prompts = PLAIN_PROMPTS if record.dataset is None else PROMPTS[record.dataset]
        same_image = (o for o in record.same_image if (record.entity, o.fact) not in edited)
        return make_case(replace(record, same_image=tuple(same_image)), prompts, pictures)

    return [make(record) for record in records]


def cases_sha256(cases: Sequence[Case]) -> str:
    """Compute the sha256 of all that cases ask; a picture counts by its file name or its bytes."""
    digest = hashlib.sha256()
    for case in cases:
        for probe in case.probes:
            texts = (probe.metric, probe.prompt, probe.target, probe.file)
            digest.update(repr(texts).encode())
            if probe.file is None:
                digest.update(image_key(probe.image))
    return digest.hexdigest()


@dataclass(frozen=True)
class BenchmarkFiles:
    """The location of a public benchmark's files."""

    manual_dir: str
    data_dir: str | None = None  # prepared rows (None: the user's cache)
    allow_missing: bool = False  # leave out rows without all their pictures, or with broken ones


@dataclass(frozen=True, eq=False)
class Stream:
    """Cases in their order; of a public benchmark also a digest of its rows, and its pictures."""

    cases: list[Case]
    rows_sha256: str | None = None
    pictures: Path | None = None  # the folder that the probes' file names are relative to


def benchmark_cases(
    name: str,
    split: str,
    seed: int | None,
    n: int | None,
    files: BenchmarkFiles,
    backbone: BackboneConfig | None = None,
) -> Stream:
    """Return the first `n` cases (None: all) of a public benchmark.

    They come in the order of the benchmark's file (`seed` None), or shuffled by the seed as the
    released evaluation does it. For a `backbone`, every picture that will be asked about is decoded
    first; with `files.allow_missing`, rows whose pictures cannot be are left out.

    Raises:
        KeyError, ValueError, FileNotFoundError: as `load_benchmark`; fewer than `n` cases, or a
            picture that cannot be decoded.
    """
    from liveedit_jax.data.benchmarks import load_benchmark

    source = load_benchmark(
        name,
        split,
        manual_dir=files.manual_dir,
        data_dir=files.data_dir,
        allow_missing=files.allow_missing,
    )
    records: Sequence[Record] = list(source)
    if backbone is not None and files.allow_missing:
        records = select_readable(records, backbone, allow_missing=True)
    if n is not None and n > len(records):
        raise ValueError(f"{n} cases: {name}'s {split} split has {len(records)} here")
    cases = make_cases(records, source.pictures)
    order = list(range(len(cases)))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    if backbone is not None and not files.allow_missing:
        select_readable([records[i] for i in order[:n]], backbone)
    return Stream([cases[i] for i in order[:n]], cases_sha256(cases), source.pictures)
