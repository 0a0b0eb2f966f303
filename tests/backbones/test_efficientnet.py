"""The EfficientNet tower against the same layers in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_parity import close, numpy_state, shaken

from liveedit_jax.backbone_config import EfficientNetConfig, Stage
from liveedit_jax.backbones.convert import convert
from liveedit_jax.backbones.efficientnet import EfficientNet, windows
from liveedit_jax.backbones.efficientnet_convert import rules

CFG = EfficientNetConfig(
    image_size=45,
    stem_width=8,
    stages=(Stage(1, 3, 1, 1, 4), Stage(2, 5, 2, 6, 6), Stage(1, 3, 2, 6, 10)),
    width=20,
    side=4,
)


def test_windows_cover_everything():
    means = windows(7, 4)
    assert (means > 0).any(0).all()
    np.testing.assert_allclose(means.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(windows(7, 7), np.eye(7))


@pytest.mark.parity
@pytest.mark.parametrize("size", [45, 64])
def test_the_tower_equals_torch(size):
    import torch

    from experiments.reference import torch_efficientnet

    net = shaken(torch_efficientnet.EfficientNet(CFG))
    for name, value in net.named_buffers():
        if value.dtype.is_floating_point:
            value += torch.rand_like(value) * (1 if name.endswith("var") else 0.2)
    image = torch.randn(2, 3, size, size)
    pixels = jnp.asarray(image.permute(0, 2, 3, 1).numpy())
    tower = EfficientNet(CFG)
    like = jax.eval_shape(lambda: tower.init(jax.random.key(0), pixels)["params"])
    weights = convert(numpy_state(net), rules(CFG), {"vision": like})["vision"]
    with torch.no_grad():
        want = net(image)
    close(jax.jit(tower.apply)({"params": weights}, pixels), want, 1e-5)
