"""Checkpoint files: lazy reads, every type, damage, nothing unpickled."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from liveedit_jax.backbones.tensors import read_tensors, weight_files

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
def test_torch_files_are_read_without_their_code(tmp_path):
    import torch

    t = torch.arange(6.0).reshape(2, 3)
    torch.save({"model": {"a": t.T, "b": t.bfloat16()}}, tmp_path / "x.pth")
    found = read_tensors([tmp_path / "x.pth"])
    np.testing.assert_array_equal(found["model.a"], t.T.numpy())
    assert found["model.b"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["model.b"].astype(np.float32), t.numpy())
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:-40])
    with pytest.raises(ValueError, match="x.pth"):
        read_tensors([tmp_path / "x.pth"])


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parity
def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys):
    file = tmp_path / "evil.bin"
    file.write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(ValueError, match="evil.bin"):
        read_tensors([file])
    assert "executed" not in capsys.readouterr().out
