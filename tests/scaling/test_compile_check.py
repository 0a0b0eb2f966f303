"""compile_check on faked devices: what it prints, and when it refuses."""

import json
import os
import subprocess
import sys

import pytest

from experiments.pods.compile_check import devices_of, mesh_for
from liveedit_jax.config import MeshConfig


def run(out, *args):
    command = [sys.executable, "-m", "experiments.pods.compile_check", "--config", "tiny"]
    command += ["--topology", "h100:4", "--batch", "4", "--out", str(out), *args]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ)


@pytest.mark.parametrize("capacity, fits", [(4096, True), (100_000_000, False)])
def test_an_edit_is_compiled_for_devices_that_are_not_there(tmp_path, capacity, fits):
    done = run(tmp_path, "--step", "edit", "--capacity", str(capacity))
    assert done.returncode == (not fits), done.stdout + done.stderr
    found = json.loads((tmp_path / "tiny-h100-4-edit.json").read_text())
    assert json.loads(done.stdout) == found
    assert found["fits"] is fits and found["chips"] == 4 and found["mesh"] == {"expert": 4}
    a_row = (192 + 128) * 4 + 2 * 32 * 192 * 2  # two keys in float32, two bodies in bfloat16
    rows_gb = capacity / 4 * a_row / 1e9
    assert rows_gb < found["arguments_gb"] < 1.02 * rows_gb + 0.05
    assert found["a_chip_gb"] >= found["arguments_gb"]
    assert "utilisation" not in found  # there is no estimate for these


def test_unknown_topologies_and_meshes_are_refused(tmp_path):
    done = run(tmp_path, "--topology", "v9:4x4")
    assert done.returncode == 1 and "none of h100, v4" in done.stderr
    with pytest.raises(ValueError, match="none of h100, v4"):
        devices_of("v9:2x2")


def test_default_meshes_suit_the_step():
    assert mesh_for("train", 256, None) == MeshConfig(data=16, fsdp=16)
    assert mesh_for("query", 256, None) == MeshConfig(data=16, expert=16)
    assert mesh_for("generate", 16, None) == MeshConfig(tensor=4, expert=4)
    assert mesh_for("train", 8, "tensor=2,fsdp=4") == MeshConfig(tensor=2, fsdp=4)
