"""Training, edits, queries and generation on meshes of eight faked devices."""

import jax
import pytest

from liveedit_jax.config import MeshConfig
from liveedit_jax.scaling.mesh import make_mesh


def test_on_eight_devices(on_eight_devices, tmp_path):
    on_eight_devices(
        "sharded_training",
        "large_arrays_are_really_split()",
        "edits_queries_and_generation_are_those_of_one_device()",
        f"a_checkpoint_opens_on_another_mesh({str(tmp_path)!r})",
    )


def test_training_on_eight_devices(on_eight_devices, tmp_path):
    on_eight_devices(
        "sharded_training",
        "every_mesh_trains_as_one_device()",
        f"accumulated_steps_are_those_of_one_device({str(tmp_path)!r})",
        fast=True,
    )


def test_a_mesh_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"data=2 x fsdp=1 x tensor=3 x expert=1 is 6 devices"):
        make_mesh(MeshConfig(data=2, tensor=3), jax.devices()[:1])
