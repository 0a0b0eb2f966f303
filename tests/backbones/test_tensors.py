"""Checkpoint files: lazy reads, every type, damage, nothing unpickled."""

import json
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from liveedit_jax.backbones.tensors import read_tensors, weight_files
from liveedit_jax.backbones.torch_files import MAGIC

RNG = np.random.default_rng(0)


@pytest.fixture
def shard(tmp_path):
    tensors = {
        "a": RNG.normal(size=(3, 4)).astype(np.float32),
        "b": RNG.normal(size=7).astype(np.float16),
        "c": RNG.normal(size=(2, 2)).astype(ml_dtypes.bfloat16),
        "n": np.arange(5),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    return tensors, tmp_path / "x.safetensors"


def test_safetensors_come_back_as_they_were(shard):
    tensors, file = shard
    found = read_tensors([file])
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("kept", [0, 5, 40, -3])
def test_a_truncated_shard_is_refused_by_name(shard, kept):
    _, file = shard
    data = file.read_bytes()
    file.write_bytes(data[:kept])
    with pytest.raises(ValueError, match="x.safetensors"):
        read_tensors([file])


def test_a_name_in_two_files_is_refused(shard, tmp_path):
    _, file = shard
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match="holds names that another file has"):
        read_tensors([file, tmp_path / "y.safetensors"])


def test_the_index_names_the_files(shard, tmp_path):
    _, file = shard
    index = {"weight_map": {"a": "x.safetensors", "z": "gone.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="gone.safetensors"):
        weight_files(tmp_path)
    index["weight_map"].pop("z")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(tmp_path) == [file]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .safetensors or .bin"):
        weight_files(tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read_without_torch(tmp_path, zipped):
    import torch

    t = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "turned": t.T, "view": t[1:, 1:], "half": t.half(), "whole": t.long(), "none": t[:0],
        "weight": torch.nn.Parameter(t), "number": torch.tensor(3.0, dtype=torch.float64),
    }  # fmt: skip
    held = {"model": OrderedDict(tensors | {"b": t.bfloat16()}), "epoch": 3, "more": [1, None]}
    torch.save(held, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    found = read_tensors([tmp_path / "x.pth"])
    assert set(found) == {f"model.{name}" for name in held["model"]}
    for name, wanted in tensors.items():
        array = found[f"model.{name}"]
        assert array.dtype == wanted.detach().numpy().dtype
        np.testing.assert_array_equal(array, wanted.detach().numpy())
    assert found["model.b"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["model.b"].astype(np.float32), t.numpy())
    for kept in (0, 3, 200, -40):
        (tmp_path / "y.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:kept])
        with pytest.raises(ValueError, match="y.pth"):
            read_tensors([tmp_path / "y.pth"])


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def plain_file(file, content, numbers=b""):
    """As torch before 1.6 wrote it."""
    parts = (MAGIC, 1001, {"little_endian": True}, content, ["0"])
    file.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts) + numbers)


def zip_file(file, content):
    """As torch writes it now."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(content, 2))


@pytest.mark.parametrize("write", [plain_file, zip_file])
def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys, write):
    file = tmp_path / "evil.bin"
    write(file, {"a": Evil()})
    with pytest.raises(ValueError, match="evil.bin.*builtins.print|evil.bin.*__builtin__.print"):
        read_tensors([file])
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parity
def test_a_tensor_outside_its_storage_is_refused(tmp_path):
    import torch

    file = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(2, 3)}, file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    assert data.count(b"K\x02K\x03\x86") == 1  # the shape in the pickle
    file.write_bytes(data.replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86"))
    with pytest.raises(ValueError, match="outside its storage"):
        read_tensors([file])
