"""A repository over eight devices against one on a single device."""

import jax
import pytest
from jax.sharding import Mesh

from liveedit_jax.config import EditorConfig, StorageConfig
from liveedit_jax.scaling import repository as sharded


def test_on_eight_devices(on_eight_devices):
    on_eight_devices(
        "sharded_repository",
        "eight_devices_store_route_and_apply_as_one()",
        "rollback_frees_rows_on_every_device()",
        "only_scores_and_the_residual_cross()",
    )


def test_a_capacity_that_does_not_divide_is_refused():
    class TwoDevices:
        axis_names = (sharded.EXPERT,)
        shape = {sharded.EXPERT: 2}

    with pytest.raises(ValueError, match="capacity=7 is not a multiple of the 2 devices"):
        sharded.init_repository(TwoDevices(), EditorConfig(), 4, 7, StorageConfig())
    mesh = Mesh(jax.devices()[:1], (sharded.EXPERT,))
    cfg = EditorConfig(module_width=4, heads_n=2)
    assert sharded.init_repository(mesh, cfg, 4, 7, StorageConfig()).born.shape == (7,)
