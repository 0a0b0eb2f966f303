"""Pictures that a benchmark's rows name and that are missing or cannot be decoded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.data.annotations import PICTURE_FIELDS
from liveedit_jax.data.images import picture_bytes, preprocess
from liveedit_jax.data.records import Record

LISTED_N = 10  # missing pictures that an error lists
READERS_N = min(8, os.cpu_count() or 1)  # threads that decode pictures
DRAWN_FIELDS = ("other_drawing", "third_drawing", "look_alike")  # further pictures of some records


@dataclass(frozen=True)
class MissingPicture:
    """A missing picture: the row and field that name it, its path below the picture folder."""

    row: int
    field: str
    file: str

    def __str__(self) -> str:
        """Format the row, the file and the field."""
        return f"row {self.row}: {self.file} ({self.field})"


def missing_pictures(records: Iterable[Record], folder: Path) -> tuple[MissingPicture, ...]:
    """List the records' pictures that are not files below `folder`, in row order."""
    there: dict[Path, bool] = {}

    def is_there(file: Path) -> bool:
        if file not in there:
            there[file] = os.path.isfile(folder / file)
        return there[file]

    found = []
    for record in records:
        assert record.row is not None  # it is read from a file
        for field in PICTURE_FIELDS:
            if not is_there(record[field]):
                found.append(MissingPicture(record.row, field, record[field].as_posix()))
    return tuple(found)


def select_complete(
    records: tuple[Record, ...], folder: Path, allow_missing: bool
) -> tuple[tuple[Record, ...], tuple[MissingPicture, ...]]:
    """Select the records whose pictures are all there; also return what the others lack.

    A warning names the rows that are left out.

    Raises:
        FileNotFoundError: no picture folder, no row with all its pictures, or any missing picture
            unless `allow_missing`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no picture folder {folder}: put the benchmark's pictures there")
    missing = missing_pictures(records, folder)
    if not missing:
        return records, ()
    rows = {lack.row for lack in missing}
    files_n = len({lack.file for lack in missing})
    counted = f"{files_n} pictures of {len(rows)} rows are not in {folder}"
    if not allow_missing or len(rows) == len(records):
        listed = "\n".join(f"  {lack}" for lack in missing[:LISTED_N])
        more = f"\n  and {len(missing) - LISTED_N} more" if len(missing) > LISTED_N else ""
        advice = (
            "; no row has all its pictures"
            if allow_missing
            else "; --allow-missing (allow_missing=True) leaves these rows out"
        )
        raise FileNotFoundError(f"{counted}{advice}\n{listed}{more}")
    listed = "\n".join(f"  {lack}" for lack in missing)
    warnings.warn(f"{counted}; these rows are left out\n{listed}", stacklevel=2)
    return tuple(record for record in records if record.row not in rows), missing


def select_readable(
    records: Sequence[Record], cfg: BackboneConfig, allow_missing: bool = False
) -> tuple[Record, ...]:
    """Select the records whose pictures can all be decoded, as the backbone will take them.

    It decodes each picture once, so that none fails after hours of work. A warning names the rows
    that are left out, with reasons.

    Args:
        records: the records, in any order.
        cfg: the backbone whose preprocessing is tried.
        allow_missing: leave records out instead of refusing all.

    Raises:
        ValueError: a picture is missing or cannot be decoded (with `allow_missing`: one of every
            record); names rows and files.
    """
    shown = [
        (at, field, picture)
        for at, record in enumerate(records)
        for field in (*PICTURE_FIELDS, *DRAWN_FIELDS)
        if (picture := record[field]) is not None
    ]
    distinct = list(dict.fromkeys(picture for _, _, picture in shown))
    with ThreadPoolExecutor(READERS_N, thread_name_prefix="pictures") as pool:
        reasons = dict(zip(distinct, pool.map(partial(_why_not, cfg), distinct), strict=True))
    bad = [(at, field, reasons[picture]) for at, field, picture in shown if reasons[picture]]
    if not bad:
        return tuple(records)
    rows = {at for at, _, _ in bad}
    listed = [
        f"  row {at if records[at].row is None else records[at].row}: {reason} ({field})"
        for at, field, reason in bad
    ]
    counted = f"the pictures of {len(rows)} rows cannot be used"
    if not allow_missing or len(rows) == len(records):
        more = [f"  and {len(listed) - LISTED_N} more"] if len(listed) > LISTED_N else []
        advice = (
            "; no row has all its pictures"
            if allow_missing
            else ": replace them, or leave these rows out (--allow-missing)"
        )
        raise ValueError("\n".join([counted + advice, *listed[:LISTED_N], *more]))
    warnings.warn("\n".join([f"{counted}; they are left out", *listed]), stacklevel=2)
    return tuple(record for at, record in enumerate(records) if at not in rows)


def _why_not(cfg: BackboneConfig, picture: bytes | Path) -> str | None:
    """Say why a picture cannot be used; None where it can."""
    try:
        preprocess(
            cfg, picture_bytes(picture), "image" if isinstance(picture, bytes) else str(picture)
        )
    except (ValueError, OSError) as error:
        return str(error)
    return None
