"""Named tensors of checkpoint files, read one at a time and without unpickling code.

safetensors files are read with plain reads instead of being memory-mapped: mapped pages count as
the process's memory, so that a 7B checkpoint would double the peak.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from liveedit_jax.backbones.torch_files import read_torch
from liveedit_jax.data.json_files import parse_json, read_json

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(bool),
}
HEADER_MOST = 100_000_000  # bytes; the format's own limit


class TensorLocation(NamedTuple):
    """The location of a tensor's bytes."""

    file: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of safetensors files, read anew on each access, beside arrays that are there."""

    def __init__(self, locations: Mapping[str, TensorLocation | np.ndarray]):
        """Take the location of every tensor, or the tensor; nothing is read yet."""
        self.locations = locations

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one tensor."""
        location = self.locations[name]
        if not isinstance(location, TensorLocation):
            return location
        n = math.prod(location.shape)
        array = np.fromfile(location.file, location.dtype, n, offset=location.offset)
        return array.reshape(location.shape)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.locations)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.locations)


def locate_tensors(file: Path) -> dict[str, TensorLocation]:
    """Locate the tensors of a safetensors file, and check its header and length.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is truncated, no safetensors file, or its tensors overlap or leave gaps.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        header_n = int.from_bytes(opened.read(8), "little")
        if size < 8 or header_n > min(HEADER_MOST, size - 8):
            raise ValueError(f"{file} is truncated or no safetensors file; fetch it again")
        header = parse_json(opened.read(header_n), f"the header of {file}")
    if not isinstance(header, dict):
        raise ValueError(f"the header of {file} is no JSON object; fetch it again")
    header.pop("__metadata__", None)
    begin = 8 + header_n
    spans = {name: _read_entry(file, name, entry) for name, entry in header.items()}
    at = 0  # tensors lie one after another, as the format wants them
    for name, (_, _, start, end) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if start != at:
            raise ValueError(
                f"{file}: tensor {name} begins at byte {start} of the data, not at {at}: tensors "
                "overlap or leave a gap; fetch it again"
            )
        at = end
    if begin + at != size:
        raise ValueError(
            f"{file} is truncated or has bytes of no tensor: its tensors end at byte {begin + at}, "
            f"the file has {size}; fetch it again"
        )
    return {
        name: TensorLocation(file, begin + start, dtype, shape)
        for name, (dtype, shape, start, _) in spans.items()
    }


def _read_entry(file: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Check a tensor's entry in the header; return its dtype and shape, and where it is.

    Raises:
        ValueError: a field is missing or no such thing, or its bytes are not its shape's.
    """
    fields = ("dtype", "shape", "data_offsets")
    if not isinstance(entry, dict) or any(field not in entry for field in fields):
        raise ValueError(f"{file}: tensor {name} lacks one of {', '.join(fields)}")
    kind, shape, offsets = (entry[field] for field in fields)
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"{file}: tensor {name} has the unsupported type {kind!r}")
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"{file}: tensor {name} has the impossible {field} {numbers!r}"[:300])
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * DTYPES[kind].itemsize:
        raise ValueError(
            f"{file}: tensor {name} has bytes {offsets} for the shape {shape} of {kind}"[:300]
        )
    return DTYPES[kind], tuple(shape), *offsets


def weight_files(folder: Path) -> list[Path]:
    """List the weight files of a Hugging Face folder: those in its index, or else all.

    Raises:
        FileNotFoundError: there are none, or one that the index names is missing.
        ValueError: the index is damaged, or names a file outside the folder.
    """
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            files = [folder / name for name in _read_index(folder / index)]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{folder} lacks {', '.join(missing[:5])}, named in {index}"
                )
            return files
    for pattern in ("*.safetensors", "*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    raise FileNotFoundError(f"no .safetensors or .bin weights in {folder}")


def _read_index(file: Path) -> list[str]:
    """List the names of files in an index, each a plain name beside it, in order."""
    index = read_json(file)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not named:
        raise ValueError(f"{file} has no weight_map from tensors to files")
    for name in named.values():
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:\0"):
            raise ValueError(
                f"{file} names {str(name)[:80]!r}: only files beside it are read, by plain names"
            )
    return sorted(set(named.values()))


def read_tensors(files: Sequence[Path]) -> Mapping[str, np.ndarray]:
    """Open the tensors of several files as one mapping; safetensors are read on access.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or two files have a tensor of the same name.
    """
    found: dict[str, TensorLocation | np.ndarray] = {}
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no weights at {file}")
        is_torch = file.suffix != ".safetensors"
        inside: Mapping[str, TensorLocation | np.ndarray] = (
            read_torch(file) if is_torch else locate_tensors(file)
        )
        if doubled := sorted(found.keys() & inside.keys()):
            raise ValueError(f"{file} holds names that another file has too: {doubled[:5]}")
        found |= inside
    return Tensors(found)
