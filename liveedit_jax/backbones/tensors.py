"""Named tensors of checkpoint files, read one at a time; nothing is ever unpickled as code.

safetensors files are read with plain reads, not mapped into memory: pages of a mapped file count
as the process's own, and a 7B checkpoint would double its peak.
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


class Place(NamedTuple):
    """Where a tensor's bytes are."""

    file: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Tensors(Mapping):
    """Tensors of several safetensors files as numpy arrays; each access reads the file anew."""

    def __init__(self, places: dict[str, Place]):
        """Hold where everything is; nothing is read yet."""
        self.places = places

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one tensor."""
        place = self.places[name]
        n = int(np.prod(place.shape))
        array = np.fromfile(place.file, place.dtype, n, offset=place.offset)
        return array.reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self.places)

    def __len__(self) -> int:
        """How many tensors."""
        return len(self.places)


def safetensors_places(file: Path) -> dict[str, Place]:
    """The tensors of one file, its header and its length checked.

    Raises:
        ValueError: truncated, or not a safetensors file.
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
    places, begin = {}, 8 + header_n
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
        places[name] = Place(file, begin + start, dtype, shape)
    return places


def first_line(error: Exception) -> str:
    """What an error says in at most 200 characters, its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face folder: those of its index, else what it holds.

    Raises:
        FileNotFoundError: none, or one that the index names is missing.
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
    """All tensors of some files under their names; safetensors are read when asked for.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or a name is in two of them.
    """
    found: dict[str, Place | np.ndarray] = {}
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no weights at {file}")
        is_torch = file.suffix != ".safetensors"
        inside = read_torch(file) if is_torch else safetensors_places(file)
        if doubled := sorted(found.keys() & inside.keys()):
            raise ValueError(f"{file} holds names that another file has too: {doubled[:5]}")
        found |= inside
    return _Mixed(found)


class _Mixed(Tensors):
    """Safetensors places beside arrays of mapped torch files."""

    def __getitem__(self, name: str) -> np.ndarray:
        found = self.places[name]
        return super().__getitem__(name) if isinstance(found, Place) else found
