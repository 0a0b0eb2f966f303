"""Experts as bytes: their arrays one after another in float32 or bfloat16, with a checksum."""

from __future__ import annotations

import json
import math
import zlib

import ml_dtypes
import numpy as np

from liveedit_jax.store.records import Header

DTYPES = {"float32": np.dtype("<f4"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ALIGNED = 64  # bytes; XLA's CPU backend takes an array at such an address without copying it


def expert_crc32(
    generation: int, edit_id: int, nth: int, shapes: str, dtype: str, data: bytes
) -> int:
    """Compute the checksum of an expert and of all that is said about it."""
    about = f"{generation} {edit_id} {nth} {shapes} {dtype}"
    return zlib.crc32(data, zlib.crc32(about.encode()))


def pack(header: Header, arrays: dict[str, np.ndarray]) -> list[bytes]:
    """Write N experts' arrays [N, *shape] as bytes.

    Raises:
        ValueError: the names, a shape or a value (not finite) is wrong.
    """
    if set(arrays) != set(header.shapes):
        raise ValueError(f"expected the arrays {sorted(header.shapes)}, got {sorted(arrays)}")
    parts = []
    for name, shape in header.shapes.items():
        array = np.asarray(arrays[name], "<f4")
        if array.shape[1:] != tuple(shape):
            raise ValueError(f"{name} has rows of shape {array.shape[1:]}, expected {tuple(shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite: the model's weights or the input are broken")
        parts.append(array.reshape(len(array), -1))
    packed = np.concatenate(parts, axis=1).astype(DTYPES[header.dtype])
    return [row.tobytes() for row in packed]


class Rows:
    """Arrays [N, *shape] that stored experts are written into, one after another, as they are."""

    def __init__(self, header: Header, rows_n: int):
        """Allocate room for `rows_n` experts; memory that is never written to costs nothing."""
        self._dtype = DTYPES[header.dtype]
        self._arrays = {
            name: _zeros((rows_n, *shape), self._dtype) for name, shape in header.shapes.items()
        }
        self._plans: dict[str, list] = {}
        self.ids: list[int] = []  # whose experts have been written

    def add(self, edit_id: int, shapes: str, dtype: str, data: bytes) -> None:
        """Write the next row; an expert of a lower rank is filled up with zeros, which add nothing.

        Raises:
            ValueError: it does not fit.
        """
        if DTYPES.get(dtype) != self._dtype:
            raise ValueError(f"an expert in {dtype} among others")
        if shapes not in self._plans:
            self._plans[shapes] = self._plan(shapes)
        row, stored = len(self.ids), np.frombuffer(data, f"<u{self._dtype.itemsize}")
        for bits, shape, begin, end in self._plans[shapes]:
            bits[row, : shape[0]] = stored[begin:end].reshape(shape)
        self.ids.append(edit_id)

    def _plan(self, shapes: str) -> list[tuple[np.ndarray, tuple[int, ...], int, int]]:
        """List where the parts of such an expert go, and where they begin and end."""
        plan, at = [], 0
        for name, shape in json.loads(shapes).items():
            array, shape = self._arrays[name], tuple(shape)
            full, n = array.shape[1:], math.prod(shape)
            lower = len(full) == 2 and shape[1:] == full[1:] and shape[0] < full[0]
            if shape != full and not lower:
                raise ValueError(f"{name} of shape {shape} does not fit {full}")
            plan.append((array.view(f"<u{array.itemsize}"), shape, at, at + n))
            at += n
        return plan

    def arrays(self) -> dict[str, np.ndarray]:
        """Give all rows, float32 or bfloat16 [N, *shape]; those not written to are zeros."""
        return self._arrays


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + ALIGNED, np.uint8)
    begin = -room.ctypes.data % ALIGNED
    return room[begin : begin + size].view(dtype).reshape(shape)
