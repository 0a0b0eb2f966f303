"""The TFDS builders of the public benchmarks, and their records.

    records = load_benchmark("evqa", "eval", manual_dir="mmedit")
    records[0].src, records[0].image

Only texts and the paths of pictures are prepared; the pictures stay where they are and are read
when they are needed. Nothing is downloaded and nothing needs TensorFlow.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import tensorflow_datasets as tfds

from liveedit_jax.data.annotations import (
    BENCHMARKS,
    PICTURE_FIELDS,
    TEXT_FIELDS,
    Benchmark,
    get_benchmark,
    read_annotations,
)
from liveedit_jax.data.missing import MissingPicture, select_complete
from liveedit_jax.data.mojiedit import default_data_dir, prepare_builder
from liveedit_jax.data.records import PortabilityProbe, Record

_TEXTS = (*TEXT_FIELDS, "pred")
_PORT_TEXTS = ("question", "answer", "edit_question", "edit_answer")


@dataclass
class BenchmarkConfig(tfds.core.BuilderConfig):
    """One split of a benchmark; its name contains a digest of the rows."""

    split: str = ""
    records: tuple[Record, ...] = field(default=(), repr=False)


class _AnnotationBuilder(  # type: ignore[call-arg]  # tensorflow_datasets has no types
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Rows in the order of the authors' file: texts, paths of pictures, the row's number."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Texts as published, paths of pictures, row numbers."}
    benchmark: Benchmark

    def _info(self) -> tfds.core.DatasetInfo:
        port = {name: tfds.features.Text() for name in _PORT_TEXTS}
        features = {
            "row": tfds.features.Scalar(np.int32),
            **{name: tfds.features.Text() for name in (*_TEXTS, *PICTURE_FIELDS)},
            "port": tfds.features.Sequence({"hops": tfds.features.Scalar(np.int32), **port}),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.benchmark.description,
            features=tfds.features.FeaturesDict(features),
            citation=self.benchmark.citation,
            homepage=self.benchmark.homepage,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict:
        config = self.builder_config
        return {config.split: self._generate_examples(config.records)}

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[int, dict]]:
        for record in records:
            assert record.row is not None  # it is read from a file
            port = [
                {"hops": port.hops, **{name: getattr(port, name) or "" for name in _PORT_TEXTS}}
                for port in record.port
            ]
            texts = {name: record[name] for name in _TEXTS}
            paths = {name: record[name].as_posix() for name in PICTURE_FIELDS}
            yield record.row, {"row": record.row, **texts, **paths, "port": port}


def _builder_of(name: str) -> type[_AnnotationBuilder]:
    """Make the builder of a benchmark: TFDS wants a class for each name."""
    fields = {"name": name, "benchmark": BENCHMARKS[name], "__module__": __name__}
    return type(name.capitalize(), (_AnnotationBuilder,), fields)


BUILDERS = {name: _builder_of(name) for name in BENCHMARKS}


@dataclass(frozen=True, eq=False)
class BenchmarkSource(Sequence[Record]):
    """The records of one split in the file's order, each decoded when it is indexed."""

    name: str
    split: str
    pictures: Path  # the folder that pictures are below
    left_out: tuple[MissingPicture, ...]  # the pictures for lack of which rows were left out
    rows: Sequence[dict] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index):
        """Return one record, or a list of records for a slice."""
        n = len(self.rows)
        if isinstance(index, slice):
            return [self._record(i) for i in range(*index.indices(n))]
        i = operator.index(index)
        if not -n <= i < n:
            raise IndexError(f"record {i} of {n}")
        return self._record(i % n)

    def _record(self, i: int) -> Record:
        row = self.rows[i]
        paths = {name: row[name].decode() for name in PICTURE_FIELDS}
        return Record(
            **{name: row[name].decode() for name in _TEXTS},
            **{name: self.pictures / path for name, path in paths.items()},
            entity=paths["image"],
            fact="",
            split=self.split,
            dataset=self.name,
            row=int(row["row"]),
            port=_decode_portability(row["port"]),
        )


def _decode_portability(stored: dict) -> tuple[PortabilityProbe, ...]:
    texts = ([text.decode() or None for text in stored[name]] for name in _PORT_TEXTS)
    rows = zip(stored["hops"], *texts, strict=True)
    return tuple(
        PortabilityProbe(question, answer, int(hops), edit_question, edit_answer)
        for hops, question, answer, edit_question, edit_answer in rows
    )


def load_benchmark(
    name: str,
    split: str = "train",
    *,
    manual_dir: str | Path,
    data_dir: str | Path | None = None,
    allow_missing: bool = False,
) -> BenchmarkSource:
    """Load the records of one split, which is prepared first where its files are new.

    Args:
        name: of `annotations.BENCHMARKS`: "evqa", "eic", "vlkeb".
        split: "train" or "eval"; of VLKEB also "onehop" and "multihop".
        manual_dir: the folder with the authors' files, laid out as in `annotations.BENCHMARKS`.
        data_dir: where prepared rows are kept (default: `default_data_dir()`).
        allow_missing: leave out rows whose pictures are missing; a warning names them.

    Raises:
        KeyError: an unknown benchmark.
        ValueError: an unknown split, or an unusable row.
        FileNotFoundError: the annotation file, the picture folder or a picture is missing.
    """
    benchmark = get_benchmark(name)
    annotations = read_annotations(name, split, manual_dir)
    pictures = Path(manual_dir).absolute() / benchmark.pictures
    records, left_out = select_complete(annotations.records, pictures, allow_missing)
    config = BenchmarkConfig(
        name=f"{split}-{_digest(annotations.sha256, left_out)}", split=split, records=records
    )
    folder = str(data_dir or default_data_dir())

    def builder() -> _AnnotationBuilder:
        return BUILDERS[name](data_dir=folder, config=config, file_format="array_record")

    source = prepare_builder(builder).as_data_source(split)
    return BenchmarkSource(name, split, pictures, left_out, source)


def _digest(sha256: str, left_out: Sequence[MissingPicture]) -> str:
    """Hash what was prepared: the annotation file, and which of its rows were left out."""
    rows = sorted({lack.row for lack in left_out})
    return hashlib.sha256(f"{sha256} {rows}".encode()).hexdigest()[:16]
