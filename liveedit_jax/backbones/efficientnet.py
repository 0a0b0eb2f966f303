"""EfficientNet-lite as a frozen vision tower, whose last feature map is pooled to tokens."""

from __future__ import annotations

from functools import reduce
from operator import add

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from liveedit_jax.backbone_config import EfficientNetConfig, Stage


class FrozenNorm(nn.Module):
    """Batch normalisation with stored statistics."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B I J W"]) -> Float[Array, "B I J W"]:
        """Normalise feature maps."""
        shape, ones, zeros = (x.shape[-1],), nn.initializers.ones, nn.initializers.zeros
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean, var = self.param("mean", zeros, shape), self.param("var", ones, shape)
        gain = scale * jax.lax.rsqrt(var + self.eps)
        return x * gain + (bias - mean * gain)


class DepthwiseConv(nn.Module):
    """A depthwise convolution with SAME padding, computed as a sum of shifted maps.

    XLA fuses the sum into one pass. Its grouped convolution is 8 to 45 times slower on CPUs.
    """

    kernel_size: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B I J W"]) -> Float[Array, "B I2 J2 W"]:
        """Convolve square maps."""
        k, step = self.kernel_size, self.stride
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (k, k, 1, x.shape[-1]))
        out_n = -(-x.shape[1] // step)
        reach = (out_n - 1) * step + 1  # the extent that one tap of the kernel covers
        pad_n = max(reach + k - 1 - x.shape[1], 0)
        pad = (pad_n // 2, pad_n - pad_n // 2)
        x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
        taps = [
            x[:, i : i + reach : step, j : j + reach : step] * kernel[i, j, 0]
            for i in range(k)
            for j in range(k)
        ]
        return reduce(add, taps)


class ConvNorm(nn.Module):
    """A convolution with TensorFlow's SAME padding, a norm and, unless `linear`, a ReLU6."""

    width: int
    kernel_size: int
    eps: float
    stride: int = 1
    depthwise: bool = False
    linear: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B I J W"]) -> Float[Array, "B I2 J2 X"]:
        """Convolve and normalise feature maps."""
        if self.depthwise:
            x = DepthwiseConv(self.kernel_size, self.stride, name="conv")(x)
        else:
            size = (self.kernel_size,) * 2
            x = nn.Conv(self.width, size, self.stride, padding="SAME", use_bias=False, name="conv")(
                x
            )
        x = FrozenNorm(self.eps, name="norm")(x)
        return x if self.linear else jax.nn.relu6(x)


class Bottleneck(nn.Module):
    """An inverted bottleneck: expand, convolve depthwise, project; residual if shapes agree."""

    stage: Stage
    stride: int
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B I J W"]) -> Float[Array, "B I2 J2 X"]:
        """Transform feature maps."""
        stage, width, y = self.stage, x.shape[-1], x
        if stage.expand_ratio != 1:
            y = ConvNorm(width * stage.expand_ratio, 1, self.eps, name="expand")(y)
        y = ConvNorm(
            y.shape[-1], stage.kernel_size, self.eps, self.stride, depthwise=True, name="depthwise"
        )(y)
        y = ConvNorm(stage.width, 1, self.eps, linear=True, name="project")(y)
        return x + y if self.stride == 1 and width == stage.width else y


def windows(n: int, side: int) -> Float[np.ndarray, "side n"]:
    """Compute the matrix that averages 0..n-1 over `side` windows.

    The windows overlap where n is not a multiple of `side`.
    """
    rows = np.zeros((side, n), np.float32)
    for i in range(side):
        begin, end = i * n // side, -(-(i + 1) * n // side)
        rows[i, begin:end] = 1 / (end - begin)
    return rows


class EfficientNet(nn.Module):
    """EfficientNet-lite: stem, stages, head, and average pooling to tokens."""

    cfg: EfficientNetConfig

    @nn.compact
    def __call__(self, image: Float[Array, "B S S 3"]) -> Float[Array, "B P W"]:
        """Return a feature for each window of the last map, in reading order."""
        cfg, at = self.cfg, 0
        x = ConvNorm(cfg.stem_width, 3, cfg.norm_eps, 2, name="stem")(image)
        for stage in cfg.stages:
            for i in range(stage.blocks_n):
                stride = stage.stride if i == 0 else 1
                x = Bottleneck(stage, stride, cfg.norm_eps, name=f"block{at}")(x)
                at += 1
        x = ConvNorm(cfg.width, 1, cfg.norm_eps, name="head")(x)
        mean = jnp.asarray(windows(x.shape[1], cfg.side))
        x = jnp.einsum("ik,bklw,jl->bijw", mean, x, mean)
        return rearrange(x, "b i j w -> b (i j) w")
