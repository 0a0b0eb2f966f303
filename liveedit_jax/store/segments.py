"""Expert rows in raw segment files: fixed-size little-endian float32 records, never pickle.

Row r is record r % SEGMENT_ROWS of file r // SEGMENT_ROWS. A row's crc32 is kept in the journal
line of its edit, so a row without a journal line (a kill between the two writes) is nobody's.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from liveedit_jax.store.durable import sync_folder, write_at

SEGMENT_ROWS = 4096
Shapes = dict[str, tuple[int, ...]]  # name -> shape of one row's array, in storage order


def row_bytes(shapes: Shapes) -> int:
    """Bytes of one row."""
    return 4 * sum(math.prod(shape) for shape in shapes.values())


def segment_file(folder: Path, segment: int) -> Path:
    """The file of one segment."""
    return folder / f"{segment:06d}.f32"


def pack(shapes: Shapes, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Arrays [N, *shape] as uint8[N, row_bytes].

    Raises:
        ValueError: the names, a shape or a value (not finite) is wrong.
    """
    if set(arrays) != set(shapes):
        raise ValueError(f"expected the arrays {sorted(shapes)}, got {sorted(arrays)}")
    parts = []
    for name, shape in shapes.items():
        array = np.asarray(arrays[name], "<f4")
        if array.shape[1:] != tuple(shape):
            raise ValueError(f"{name} has rows of shape {array.shape[1:]}, expected {tuple(shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite: the model's weights or the input are broken")
        parts.append(array.reshape(len(array), -1))
    return np.ascontiguousarray(np.concatenate(parts, axis=1)).view(np.uint8)


def unpack(shapes: Shapes, packed: np.ndarray) -> dict[str, np.ndarray]:
    """uint8[N, row_bytes] as float32 arrays [N, *shape]."""
    flat, at, arrays = np.ascontiguousarray(packed).view("<f4"), 0, {}
    for name, shape in shapes.items():
        n = math.prod(shape)
        arrays[name] = flat[:, at : at + n].reshape(len(flat), *shape)
        at += n
    return arrays


def next_row(folder: Path, row_n: int) -> int:
    """The first row after everything written, whole or not: no byte is ever written over."""
    segment = max((int(file.stem) for file in folder.glob("*.f32")), default=None)
    if segment is None:
        return 0
    size = segment_file(folder, segment).stat().st_size
    return segment * SEGMENT_ROWS + -(-size // row_n)


def write_rows(folder: Path, first: int, packed: np.ndarray) -> list[str]:
    """Write rows first, first + 1, ... durably; returns each row's crc32."""
    at = 0
    while at < len(packed):
        segment, offset = divmod(first + at, SEGMENT_ROWS)
        part = packed[at : at + SEGMENT_ROWS - offset]
        file = segment_file(folder, segment)
        is_new = not file.exists()
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            write_at(handle, part.tobytes(), offset * packed.shape[1])
        finally:
            os.close(handle)
        if is_new:
            sync_folder(folder)
        at += len(part)
    return [f"{zlib.crc32(row):08x}" for row in packed]


def read_rows(folder: Path, rows: Sequence[int], crcs: Sequence[str], row_n: int) -> np.ndarray:
    """Rows in the order asked, uint8[N, row_n].

    Raises:
        ValueError: a row is missing or damaged; the message carries its index among those asked.
    """
    packed = np.empty((len(rows), row_n), np.uint8)
    wanted = np.asarray(rows, np.int64)
    for segment in np.unique(wanted // SEGMENT_ROWS):
        file = segment_file(folder, int(segment))
        size = file.stat().st_size if file.exists() else 0
        stored_n = size // row_n
        here = np.flatnonzero(wanted // SEGMENT_ROWS == segment)
        offsets = wanted[here] % SEGMENT_ROWS
        if (offsets >= stored_n).any():
            raise DamagedRow(int(here[np.argmax(offsets >= stored_n)]))
        stored = np.memmap(file, np.uint8, "r", shape=(stored_n, row_n))
        packed[here] = stored[offsets]
        del stored
    for i, crc in enumerate(crcs):
        if f"{zlib.crc32(packed[i]):08x}" != crc:
            raise DamagedRow(i)
    return packed


class DamagedRow(ValueError):
    """A stored row is cut short or its checksum does not hold."""

    def __init__(self, index: int):
        """`index` is the place among the rows asked for."""
        super().__init__(f"stored row {index} is damaged")
        self.index = index
