"""Checkpoint files that somebody damaged, or made on purpose: refused by name, whatever is in them.

Bytes are changed at random with a fixed seed, so that a failure can be repeated.
"""

import io
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

from liveedit_jax.backbones.convert import Rule, convert
from liveedit_jax.backbones.machine import find_lack
from liveedit_jax.backbones.tensors import locate_tensors, read_tensors, weight_files
from liveedit_jax.backbones.torch_files import MAGIC

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(file, header, data=bytes(16)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


HEADERS = {
    "overlapping": {"a": ONE, "b": ONE | {"data_offsets": [4, 12]}},
    "the same bytes": {"a": ONE, "b": ONE},
    "a gap": {"a": ONE | {"data_offsets": [8, 16]}},
    "bytes of no tensor": {"a": ONE},
    "negative begin": {"a": ONE | {"data_offsets": [-8, 0]}},
    "backwards": {"a": ONE | {"data_offsets": [8, 0]}},
    "beyond the file": {"a": ONE | {"data_offsets": [2**62, 2**62 + 8]}},
    "negative shape": {"a": ONE | {"shape": [-2]}},
    "two negative sides": {"a": ONE | {"shape": [-1, -2]}},
    "a huge shape": {"a": ONE | {"shape": [2**40, 2**40]}},
    "a shape that overflows": {"a": ONE | {"shape": [2**32, 2**32, 2**32], "data_offsets": [0, 0]}},
    "a shape of truth": {"a": ONE | {"shape": [True, 2]}},
    "a shape of text": {"a": ONE | {"shape": "22"}},
    "one offset": {"a": ONE | {"data_offsets": [8]}},
    "8-bit floats": {"a": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}},
    "a type that is a list": {"a": ONE | {"dtype": ["F32"]}},
    "no dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "an entry that is text": {"a": "F32"},
    "a list": [1],
    "null": None,
    "deep": b"[" * 100_000,
    "a name twice": b'{"a":1,"a":1}',
    "a number without end": b'{"a":' + b"9" * 10_000 + b"}",
    "no UTF-8": b'{"\xff": 1}',
}  # fmt: skip


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_no_writer_writes_is_refused(tmp_path, what):
    file = safetensors(tmp_path / "x.safetensors", HEADERS[what])
    with pytest.raises(ValueError, match="x.safetensors") as refused:
        locate_tensors(file)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "a/../../x", "..", ".", "", "a\\b", "C:x", "a\0b", 3, None],
)
def test_an_index_names_only_files_beside_it(tmp_path, name):
    (tmp_path / "m").mkdir()
    (tmp_path / "x.safetensors").write_bytes(save({"a": np.zeros(2, np.float32)}))
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="names .*: only files beside it"):
        weight_files(tmp_path / "m")


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', "{", "[" * 100_000])
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="index.json"):
        weight_files(tmp_path)


KINDS = {
    "int8": np.int8, "uint8": np.uint8, "bool": bool, "int64": np.int64, "complex": np.complex64,
    "object": object,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_no_floats_are_no_weights(kind):
    with pytest.raises(ValueError, match="w is stored as .*, not as floating-point numbers"):
        convert({"w": np.ones((2, 3), KINDS[kind])}, [Rule("w", "w")], {"w": np.zeros((2, 3))})


@pytest.mark.parametrize(
    "value, dtype", [(np.nan, np.float32), (1e300, np.float32), (3.4e38, ml_dtypes.bfloat16)]
)
def test_values_that_the_written_type_cannot_hold_are_named(value, dtype):
    with pytest.raises(ValueError, match="non-finite values in w, as"):
        convert({"w": np.full((2, 3), value)}, [Rule("w", "w")], {"w": np.zeros((2, 3))}, dtype)


def test_floats_of_other_widths_are_weights():
    for kind in (np.float16, np.float64, ml_dtypes.bfloat16):
        found = convert({"w": np.ones((2, 3), kind)}, [Rule("w", "w")], {"w": np.zeros((2, 3))})
        assert found["w"].dtype == np.float32 and (found["w"] == 1).all()


def pth(file, pickled, kind=zipfile.ZIP_STORED, data=bytes(64)):
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/data/0", data)
    return file


def nested(depth):
    """A dict whose values are the same dict twice, and so on: 2**depth names from few bytes."""
    inner = {}
    for _ in range(depth):
        inner = {"a": inner, "b": inner}
    return pickle.dumps(inner, 2)


def endless():
    """A dict that is its own value."""
    held = {}
    held["a"] = held
    return pickle.dumps(held, 2)


PICKLES = {
    "numbered up to four billion": b"\x80\x02}r\xff\xff\xff\xff.",
    "numbered in text": b"\x80\x02}p4294967295\n.",
    "names without end": nested(60),
    "its own value": endless(),
    "a long text that is not there": b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"a.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "deep": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
}


@pytest.mark.parametrize("what", PICKLES)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_takes_no_more_memory_than_its_file(tmp_path, what, zipped):
    file = tmp_path / "x.pth"
    if zipped:
        pth(file, PICKLES[what])
    else:
        parts = [pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True})]
        file.write_bytes(b"".join(parts) + PICKLES[what] + pickle.dumps(["0"], 2))
    with pytest.raises(ValueError, match="x.pth"):
        read_tensors([file])


@pytest.mark.parametrize("member", ["x/data.pkl", "x/data/0"])
def test_a_compressed_archive_is_refused_before_it_grows(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x/data.pkl", "x/data/0"):
            archive.writestr(name, bytes(50_000_000) if name == member else b"\x80\x02}.")
    assert (tmp_path / "x.pth").stat().st_size < 10**6
    with pytest.raises(ValueError, match="x.pth .*compressed"):
        read_tensors([tmp_path / "x.pth"])


def mutated(data, rng):
    """Change, cut, double or move bytes."""
    made = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, max(len(made), 1)))
        kind = rng.integers(0, 5)
        if kind == 0:
            made = made[:at]
        elif kind == 1:
            made[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 2:
            del made[at : at + int(rng.integers(1, 9))]
        elif kind == 3 and made:
            made[at % len(made)] ^= 1 << int(rng.integers(0, 8))
        elif made:
            made[at % len(made)] = int(rng.choice([0, 255, 45, 57, 91, 123]))
    return bytes(made)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["safetensors", "pth", "old pth"])
def test_changed_bytes_are_read_as_some_weights_or_refused(tmp_path, kind):
    import torch

    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16)}
    data = io.BytesIO(save(tensors))
    if kind != "safetensors":
        held = {"model": {name: torch.tensor(array) for name, array in tensors.items()}}
        data = io.BytesIO()
        torch.save(held, data, _use_new_zipfile_serialization=kind == "pth")
    file = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    rng = np.random.default_rng(26)
    for _ in range(300):
        file.write_bytes(mutated(data.getvalue(), rng))
        try:
            found = {name: np.array(array) for name, array in read_tensors([file]).items()}
        except ValueError as refused:
            assert str(file) in str(refused) and len(str(refused)) < 1000
        else:
            assert sum(array.nbytes for array in found.values()) <= 4 * len(data.getvalue())


@pytest.mark.parametrize(
    "error, lack",
    [
        (MemoryError(), "out of memory"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(24, "Too many open files"), "Too many open files"),
        (ValueError("x\nPERMISSION_DENIED: Error reading"), "PERMISSION_DENIED: Error reading"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "RESOURCE_EXHAUSTED: Out of memory"),
        (ValueError("Invalid header"), None),
        (FileNotFoundError(2, "No such file"), None),
    ],
)
def test_what_the_machine_lacks_is_told_from_damage(error, lack):
    assert find_lack(error) == lack
    try:
        raise KeyError("something") from error
    except KeyError as outer:
        assert find_lack(outer) == lack


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    import liveedit_jax.backbones.torch_files as torch_files

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    pth(tmp_path / "x.pth", pickle.dumps({}, 2))
    monkeypatch.setattr(torch_files.mmap, "mmap", refuse)
    with pytest.raises(OSError, match="x.pth cannot be read .Permission denied"):
        read_tensors([tmp_path / "x.pth"])
