"""Pictures that a benchmark's rows name and that are not in the picture folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from liveedit_jax.data.annotations import PICTURE_FIELDS
from liveedit_jax.data.records import Record

LISTED_N = 10  # missing pictures that an error lists


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

    return tuple(
        MissingPicture(record.row, field, record[field].as_posix())
        for record in records
        for field in PICTURE_FIELDS
        if not is_there(record[field])
    )


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
