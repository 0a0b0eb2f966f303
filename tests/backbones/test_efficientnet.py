"""The EfficientNet tower against the same layers composed in torch."""

import jax
import numpy as np
import pytest
from torch_parity import close

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
def test_the_tower_equals_a_torch_composition():
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    state = {}

    def conv_norm(x, conv, norm, out, k, stride=1, groups=1, linear=False):
        weight = torch.randn(out, x.shape[1] // groups, k, k) * (2 / (k * k * x.shape[1])) ** 0.5
        if groups > 1:
            weight = torch.randn(out, 1, k, k) / k
        bn = nn.BatchNorm2d(out, eps=1e-3).eval()
        for part in (bn.weight, bn.bias, bn.running_mean):
            part.data += 0.2 * torch.randn(out)
        bn.running_var += torch.rand(out)
        state[f"{conv}.weight"] = weight.numpy()
        state.update({f"{norm}.{n}": v.numpy() for n, v in bn.state_dict().items()})
        n = x.shape[-1]
        pad = max((-(-n // stride) - 1) * stride + k - n, 0)
        x = functional.pad(x, [pad // 2, pad - pad // 2] * 2)
        x = bn(functional.conv2d(x, weight, stride=stride, groups=groups))
        return x if linear else functional.relu6(x)

    image = torch.randn(2, 3, 45, 45)
    x, at = conv_norm(image, "_conv_stem", "_bn0", 8, 3, 2), 0
    for stage in CFG.stages:
        for i in range(stage.blocks_n):
            name, begin, inner = f"_blocks.{at}.", x, x.shape[1] * stage.expand_ratio
            stride = stage.stride if i == 0 else 1
            if stage.expand_ratio != 1:
                x = conv_norm(x, name + "_expand_conv", name + "_bn0", inner, 1)
            args = (inner, stage.kernel_size, stride, inner)
            x = conv_norm(x, name + "_depthwise_conv", name + "_bn1", *args)
            x = conv_norm(x, name + "_project_conv", name + "_bn2", stage.width, 1, linear=True)
            if stride == 1 and begin.shape == x.shape:
                x = x + begin
            at += 1
    x = conv_norm(x, "_conv_head", "_bn1", 20, 1)
    want = functional.adaptive_avg_pool2d(x, 4).flatten(2).transpose(1, 2)
    tower = EfficientNet(CFG)
    pixels = image.permute(0, 2, 3, 1).numpy()
    like = jax.eval_shape(lambda: tower.init(jax.random.key(0), pixels)["params"])
    weights = convert(state, rules(CFG), {"vision": like})["vision"]
    close(jax.jit(tower.apply)({"params": weights}, pixels), want, 1e-5)
