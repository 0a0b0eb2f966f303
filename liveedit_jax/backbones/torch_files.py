"""Tensors of files that `torch.save` wrote, without torch and without running what they name.

Such a file is a pickle of nested dicts whose tensors point into storages. In a zip archive (torch
1.6 and later) a storage is a member `NAME/data/KEY`; before that, the storages follow the pickle.
The unpickler knows only the names in `KNOWN`, none of which does anything but hold its arguments,
and only members that are not compressed are read: no file takes more memory than its own size.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from liveedit_jax.backbones.machine import find_lack
from liveedit_jax.data.files import first_line

PICKLES_MOST = 2**26  # bytes of the pickles that describe the storages
VALUES_MOST = 2**18  # values in nested dicts
NAME_MOST = 4096  # characters of a tensor's name
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that is no zip archive
STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype(bool),
}


class Storage(NamedTuple):
    """A run of numbers that tensors point into, or the part of it from `start`."""

    key: str
    start: int


class Pointer(NamedTuple):
    """A tensor: where in a storage its entries are, in steps of entries."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]


def _tensor(storage: Storage, offset: int, shape, steps, *_) -> Pointer:
    return Pointer(storage, offset, tuple(shape), tuple(steps))


KNOWN: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *name: name,
}


class _Unpickler(pickle.Unpickler):
    """Refuses every name that is not in `KNOWN` or a storage's; notes the storages' dtypes."""

    def __init__(self, stream: io.BytesIO):
        _check_sizes(stream)
        super().__init__(stream, encoding="utf-8")  # of strings that Python 2 wrote
        self.dtypes: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of weights")
        return KNOWN[module, name]

    def persistent_load(self, pid: tuple) -> Storage:
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it points at something that is no storage of numbers")
        self.dtypes[key] = dtype
        return Storage(key, view[0][1] if view and view[0] else 0)


def _check_sizes(stream: io.BytesIO) -> None:
    """Refuse a pickle that asks for more memory than it has bytes; leave the stream where it is.

    Python makes room for every value's number up to the largest that a pickle names.
    """
    begin, most = stream.tell(), len(stream.getbuffer())
    for code, argument, _ in pickletools.genops(stream):
        if code.name.endswith("PUT") and isinstance(argument, int) and argument > most:
            raise pickle.UnpicklingError("it numbers more values than it has bytes")
    stream.seek(begin)


def read_torch(file: Path) -> dict[str, np.ndarray]:
    """Map the tensors of a file into memory; names in nested dicts are joined with dots.

    Raises:
        OSError: the file cannot be read.
        ValueError: truncated, of another format, holding no tensors, or naming anything else.
    """
    try:
        with open(file, "rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            stored = _zipped(stream, data) if zipfile.is_zipfile(file) else _plain(data)
        found = dict(_arrays(*stored))
    except Exception as error:  # a damaged pickle may raise anything
        if lack := find_lack(error):
            raise OSError(f"{file} cannot be read ({lack})") from error
        raise ValueError(f"{file} cannot be read as weights ({first_line(error)})") from error
    if not found:
        raise ValueError(f"{file} holds no tensors")
    return found


def _zipped(stream: BinaryIO, data: mmap.mmap) -> tuple[Any, Callable[[str], np.ndarray]]:
    """Read what a zip archive holds; return it with a function that maps a storage by its key."""
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise ValueError("it is compressed, which no file of torch.save is")
        (top,) = [name for name in members if name.endswith("/data.pkl")]
        folder = top.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        _check_order(order not in members or archive.read(order) == b"little")
        if members[top].file_size > PICKLES_MOST:
            raise ValueError("its pickle is too large")
        unpickler = _Unpickler(io.BytesIO(archive.read(top)))
        held = unpickler.load()

    def run_of(key: str) -> np.ndarray:
        member, dtype = members[f"{folder}data/{key}"], unpickler.dtypes[key]
        name_n, extra_n = struct.unpack_from("<HH", data, member.header_offset + 26)
        begin = member.header_offset + 30 + name_n + extra_n
        return _run(data, dtype, member.file_size // dtype.itemsize, begin)

    return held, run_of


def _plain(data: mmap.mmap) -> tuple[Any, Callable[[str], np.ndarray]]:
    """As `_zipped`, of the older format: pickles, then each storage's length and numbers."""
    stream = io.BytesIO(data[:PICKLES_MOST])
    if _Unpickler(stream).load() != MAGIC:
        raise ValueError("torch.save did not write it")
    _, system = _Unpickler(stream).load(), _Unpickler(stream).load()
    _check_order(system["little_endian"])
    unpickler = _Unpickler(stream)
    held, keys = unpickler.load(), _Unpickler(stream).load()
    runs, at = {}, stream.tell()
    for key in keys:
        dtype, (n,) = unpickler.dtypes[key], struct.unpack_from("<q", data, at)
        runs[key] = _run(data, dtype, n, at + 8)
        at += 8 + n * dtype.itemsize
    return held, runs.__getitem__


def _check_order(little: bool) -> None:
    if not little:
        raise ValueError("it was written on a big-endian machine")


def _run(data: mmap.mmap, dtype: np.dtype, n: int, begin: int) -> np.ndarray:
    """`n` numbers from byte `begin`; ValueError where the file ends before."""
    return np.frombuffer(data, dtype, n, begin) if n else np.empty(0, dtype)


def _arrays(held: Any, run_of: Callable[[str], np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor in nested dicts.

    Raises:
        ValueError: more values or longer names than any model has, as where dicts hold each other.
    """
    waiting, seen_n = [("", held)], 0
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            seen_n += len(value)
            if seen_n > VALUES_MOST or len(name) > NAME_MOST:
                raise ValueError("it holds more values than a model has weights")
            inside = [(f"{name}.{key}" if name else str(key), v) for key, v in value.items()]
            waiting += reversed(inside)
        elif isinstance(value, Pointer):
            yield name, _array(value, run_of(value.storage.key))


def _array(at: Pointer, run: np.ndarray) -> np.ndarray:
    """A tensor's entries in place, read-only.

    Raises:
        ValueError: they are not all inside the storage.
    """
    begin = at.storage.start + at.offset
    if min(at.steps, default=0) < 0 or min(at.shape, default=0) < 0 or begin < 0:
        raise ValueError("a tensor runs backwards")
    last = begin + sum((n - 1) * step for n, step in zip(at.shape, at.steps, strict=True))
    if 0 not in at.shape and (last >= len(run) or math.prod(at.shape) > len(run)):
        raise ValueError("a tensor lies outside its storage")
    strides = [step * run.itemsize for step in at.steps]
    return np.lib.stride_tricks.as_strided(run[begin:], at.shape, strides, writeable=False)
