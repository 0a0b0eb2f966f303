"""Named tensors of checkpoint files, read one at a time and without unpickling code.

safetensors files are read with plain reads instead of being memory-mapped: mapped pages count as
the process's memory, so that a 7B checkpoint would double the peak.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from liveedit_jax.backbones.torch_files import read_torch

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


class Tensors(Mapping):
    """Tensors of several safetensors files as numpy arrays; each access reads the file anew."""

    def __init__(self, locations: dict[str, TensorLocation]):
        """Take the location of every tensor; nothing is read yet."""
        self.locations = locations

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one tensor."""
        location = self.locations[name]
        n = int(np.prod(location.shape))
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
        ValueError: the file is truncated, or not a safetensors file.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        header_n = int.from_bytes(opened.read(8), "little")
        if size < 8 or header_n > min(HEADER_MOST, size - 8):
            raise ValueError(f"{file} is truncated or no safetensors file; fetch it again")
        try:
            header = json.loads(opened.read(header_n))
        except ValueError as error:
            raise ValueError(f"{file} has a damaged header ({error}); fetch it again") from error
    header.pop("__metadata__", None)
    locations, begin = {}, 8 + header_n
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{file}: tensor {name} has the unsupported type {entry['dtype']}")
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        start, end = entry["data_offsets"]
        if end - start != int(np.prod(shape)) * dtype.itemsize or begin + end > size:
            raise ValueError(
                f"{file} is truncated: tensor {name} should end at byte {begin + end}, the file "
                f"has {size}; fetch it again"
            )
        locations[name] = TensorLocation(file, begin + start, dtype, shape)
    return locations


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, up to 200 characters, or else its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def weight_files(folder: Path) -> list[Path]:
    """List the weight files of a Hugging Face folder: those in its index, or else all.

    Raises:
        FileNotFoundError: there are none, or one that the index names is missing.
    """
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            named = json.loads((folder / index).read_text())["weight_map"].values()
            files = [folder / name for name in sorted(set(named))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}, named in {index}")
            return files
    for pattern in ("*.safetensors", "*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    raise FileNotFoundError(f"no .safetensors or .bin weights in {folder}")


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
        inside = read_torch(file) if is_torch else locate_tensors(file)
        if doubled := sorted(found.keys() & inside.keys()):
            raise ValueError(f"{file} holds names that another file has too: {doubled[:5]}")
        found |= inside
    return _Mixed(found)


class _Mixed(Tensors):
    """Tensors of safetensors files, read on access, beside mapped arrays of torch files."""

    def __getitem__(self, name: str) -> np.ndarray:
        found = self.locations[name]
        return super().__getitem__(name) if isinstance(found, TensorLocation) else found
