"""Experts as bytes: their arrays one after another in float32 or bfloat16, with a checksum."""

from __future__ import annotations

import json
import math
import zlib
from functools import lru_cache

import numpy as np

from liveedit_jax.store.records import Header, Shapes

STORED = {"float32": np.dtype("<f4"), "bfloat16": np.dtype("<u2")}  # bfloat16 as its bits


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
    packed = np.concatenate(parts, axis=1)
    if header.dtype == "bfloat16":
        import ml_dtypes

        packed = packed.astype(ml_dtypes.bfloat16).view("<u2")
    return [row.tobytes() for row in packed]


class Rows:
    """Arrays [N, *shape] that stored experts are written into, one after another."""

    def __init__(self, header: Header, rows_n: int):
        """Allocate room for `rows_n` experts."""
        self._shapes, self._n = header.shapes, 0
        self._dtype = STORED[header.dtype]
        self._arrays = {
            name: np.zeros((rows_n, *shape), self._dtype) for name, shape in header.shapes.items()
        }

    def add(self, shapes: str, dtype: str, data: bytes) -> None:
        """Write the next row; an expert of a lower rank is filled up with zeros, which add nothing.

        Raises:
            ValueError: it does not fit.
        """
        stored, at = np.frombuffer(data, STORED.get(dtype, self._dtype)), 0
        if stored.dtype != self._dtype:
            raise ValueError(f"an expert in {dtype} among others")
        for name, shape in _parse(shapes).items():
            full, n = self._shapes[name], math.prod(shape)
            lower = len(full) == 2 and shape[1:] == full[1:] and shape[0] < full[0]
            if shape != full and not lower:
                raise ValueError(f"{name} of shape {shape} does not fit {full}")
            self._arrays[name][self._n][: shape[0]] = stored[at : at + n].reshape(shape)
            at += n
        self._n += 1

    def arrays(self) -> dict[str, np.ndarray]:
        """Give the rows written so far, float32[N, *shape]."""
        return {name: _float32(array[: self._n]) for name, array in self._arrays.items()}


def _float32(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.dtype("<u2"):
        return array
    wide = array.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


@lru_cache(maxsize=64)
def _parse(shapes: str) -> Shapes:
    return {name: tuple(shape) for name, shape in json.loads(shapes).items()}
