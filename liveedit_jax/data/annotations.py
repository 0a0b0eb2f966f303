"""The public benchmarks, and readers of their annotation files as their authors publish them.

Every row is checked. Texts are not cleaned: prefixes, spaces and line ends belong to the benchmark.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from liveedit_jax.data.files import read_file
from liveedit_jax.data.json_files import FILE_MOST, parse_json
from liveedit_jax.data.prompts import CAPTION_PROMPTS, PLAIN_PROMPTS, QUESTION_PROMPTS, Prompts
from liveedit_jax.data.records import PortabilityProbe, Record

TEXT_FIELDS = ("src", "rephrase", "alt", "loc", "loc_ans", "m_loc_q", "m_loc_a")
PICTURE_FIELDS = ("image", "image_rephrase", "m_loc")


@dataclass(frozen=True)
class AnnotationFile:
    """One split: its file, the published number of rows, the reader of its portability probes."""

    file: str
    published_n: int | None = None
    read_port: Callable[[dict, str], PortabilityProbe] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A public benchmark: its files, below the user's folder, its prompts, and whose it is."""

    splits: Mapping[str, AnnotationFile]
    pictures: str  # a folder
    prompts: Prompts = PLAIN_PROMPTS
    description: str = ""
    citation: str = ""  # BibTeX
    homepage: str = ""


@dataclass(frozen=True)
class Annotations:
    """The checked rows of one file and its sha256; pictures are paths below the picture folder."""

    records: tuple[Record, ...]
    sha256: str


def text_field(row: dict, field: str, where: str, may_be_blank: bool = False) -> str:
    """Return a text field of a row.

    Args:
        row: one object of an annotation file.
        field: its key.
        where: file and row, with which errors begin.
        may_be_blank: accept an empty text.

    Raises:
        ValueError: the field is missing, not a string, not Unicode, or blank where it must not be.
    """
    if field not in row:
        raise ValueError(f"{where}: field {field!r} is missing")
    value = row[field]
    if not isinstance(value, str):
        kind = type(value).__name__
        raise ValueError(f"{where}: field {field!r} has to be a string, it is {kind}")
    if not may_be_blank and not value.strip():
        raise ValueError(f"{where}: field {field!r} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: field {field!r} is not Unicode text ({error})") from error
    return value


def _read_picture_path(row: dict, field: str, where: str) -> Path:
    value = text_field(row, field, where)
    rooted = PurePosixPath(value).is_absolute() or PureWindowsPath(value).anchor
    if rooted or ".." in PureWindowsPath(value).parts:
        raise ValueError(
            f"{where}: field {field!r} is {value!r}; a picture has to be below the picture folder"
        )
    return Path(value)


def _read_one_hop(entry: dict, where: str) -> PortabilityProbe:
    names = ("port_q", "port_a", "port_edit_q", "port_edit_a")
    question, answer, edit_question, edit_answer = (
        text_field(entry, name, where) for name in names
    )
    return PortabilityProbe(question, answer, 1, edit_question, edit_answer)


def _read_multi_hop(entry: dict, where: str) -> PortabilityProbe:
    kind = text_field(entry, "port_type", where)
    hops = re.fullmatch("([1-4])-hop", kind)
    if hops is None:
        raise ValueError(f"{where}: field 'port_type' is {kind!r}, not '1-hop' to '4-hop'")
    asked = entry.get("Q&A")
    if not isinstance(asked, dict):
        raise ValueError(f"{where}: field 'Q&A' has to be an object with Question and Answer")
    question, answer = (text_field(asked, name, where) for name in ("Question", "Answer"))
    return PortabilityProbe(question, answer, int(hops[1]))


def _read_portability(
    row: dict, read_port: Callable[[dict, str], PortabilityProbe], where: str
) -> tuple[PortabilityProbe, ...]:
    entries = row.get("port_new")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{where}: field 'port_new' has to be a list of at least one probe")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: field 'port_new', probe {i} is not an object")
    return tuple(
        read_port(entry, f"{where}, 'port_new' probe {i}") for i, entry in enumerate(entries)
    )


_MMEDIT = """@inproceedings{cheng2023edit, title={Can We Edit Multimodal Large Language Models?},
  author={Cheng, Siyuan and Tian, Bozhong and Liu, Qingbin and Chen, Xi and Wang, Yongheng and
  Chen, Huajun and Zhang, Ningyu}, booktitle={EMNLP}, year={2023}}"""
_VLKEB = """@inproceedings{huang2024vlkeb, title={VLKEB: A Large Vision-Language Model Knowledge
  Editing Benchmark}, author={Huang, Han and Zhong, Haitian and Yu, Tao and Liu, Qiang and Wu, Shu
  and Wang, Liang and Tan, Tieniu}, booktitle={NeurIPS Datasets and Benchmarks}, year={2024}}"""
BENCHMARKS: dict[str, Benchmark] = {
    "evqa": Benchmark(
        {
            "train": AnnotationFile("vqa/vqa_train.json", 6345),
            "eval": AnnotationFile("vqa/vqa_eval.json", 2093),
        },
        pictures="images",
        prompts=QUESTION_PROMPTS,
        description="E-VQA of MMEdit: visual questions whose answers are edited.",
        citation=_MMEDIT,
        homepage="https://github.com/zjunlp/EasyEdit",
    ),
    "eic": Benchmark(
        {
            "train": AnnotationFile("caption/caption_train_edit.json", 2849),
            "eval": AnnotationFile("caption/caption_eval_edit.json", 1000),
        },
        pictures="images",
        prompts=CAPTION_PROMPTS,
        description="E-IC of MMEdit: pictures whose captions are edited.",
        citation=_MMEDIT,
        homepage="https://github.com/zjunlp/EasyEdit",
    ),
    "vlkeb": Benchmark(
        {
            "train": AnnotationFile("train.json", 5000),
            "eval": AnnotationFile("eval.json", 3174),
            "onehop": AnnotationFile("eval_edit_onehop.json", 1278, _read_one_hop),
            "multihop": AnnotationFile("eval_multihop.json", None, _read_multi_hop),
        },
        pictures="mmkb_images",
        prompts=CAPTION_PROMPTS,
        description="VLKEB: real pictures of entities whose names are edited, with portability.",
        citation=_VLKEB,
        homepage="https://github.com/VLKEB/VLKEB",
    ),
}
PROMPTS: dict[str, Prompts] = {
    "mojiedit": PLAIN_PROMPTS,
    **{name: benchmark.prompts for name, benchmark in BENCHMARKS.items()},
}


def get_benchmark(name: str) -> Benchmark:
    """Return the entry of `BENCHMARKS` with this name.

    Raises:
        KeyError: no benchmark of this name is read from annotation files.
    """
    if name == "mojiedit":
        raise KeyError("mojiedit has no annotation files: draw it by edit_stream(split, seed, n)")
    if name not in BENCHMARKS:
        raise KeyError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def read_annotations(name: str, split: str, folder: str | Path) -> Annotations:
    """Read all rows of one split, in the file's order.

    Warns where the number of rows is not the published one.

    Args:
        name: a benchmark, as in `BENCHMARKS`.
        split: one of its splits.
        folder: the user's folder; the annotation files are below it.

    Raises:
        KeyError: an unknown benchmark.
        ValueError: an unknown split, or an unusable row; names the file, the row and the field.
        FileNotFoundError: no such file.
    """
    splits = get_benchmark(name).splits
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}; splits: {', '.join(splits)}")
    source = splits[split]
    path = Path(folder) / source.file
    if not path.is_file():
        raise FileNotFoundError(
            f"no annotation file {path}: put the authors' {source.file} below {folder}"
        )
    data = read_file(path, FILE_MOST)
    records = _read_records(parse_rows(data, path), path, split, source)
    if source.published_n not in (None, len(records)):
        warnings.warn(
            f"{path} has {len(records)} rows, {source.published_n} are published", stacklevel=2
        )
    return Annotations(records, hashlib.sha256(data).hexdigest())


def parse_rows(data: bytes, path: Path) -> list:
    """Parse an annotation file's bytes into its rows.

    Raises:
        ValueError: the bytes are not a JSON list with at least one row.
    """
    try:
        rows = parse_json(data, path)
    except ValueError as error:
        raise ValueError(f"{error}: it may be cut short; fetch it again") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} has to be a list of rows, it is {type(rows).__name__}")
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def _read_records(rows: list, path: Path, split: str, source: AnnotationFile) -> tuple[Record, ...]:
    first: dict[Record, int] = {}
    for number, row in enumerate(rows):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where} has to be an object, it is {type(row).__name__}")
        record = _read_record(row, where, split, source)
        if record in first:
            raise ValueError(f"{where} is the same as row {first[record]}: remove one of them")
        first[record] = number
    return tuple(replace(record, row=number) for record, number in first.items())


def _read_record(row: dict, where: str, split: str, source: AnnotationFile) -> Record:
    texts = {field: text_field(row, field, where) for field in TEXT_FIELDS}
    pictures = {field: _read_picture_path(row, field, where) for field in PICTURE_FIELDS}
    return Record(
        src=texts["src"],
        rephrase=texts["rephrase"],
        alt=texts["alt"],
        pred=text_field(row, "pred", where, may_be_blank=True),  # no probe asks for it
        image=pictures["image"],
        image_rephrase=pictures["image_rephrase"],
        loc=texts["loc"],
        loc_ans=texts["loc_ans"],
        m_loc=pictures["m_loc"],
        m_loc_q=texts["m_loc_q"],
        m_loc_a=texts["m_loc_a"],
        entity=pictures["image"].as_posix(),
        fact="",
        split=split,
        port=() if source.read_port is None else _read_portability(row, source.read_port, where),
    )
