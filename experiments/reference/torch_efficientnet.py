"""EfficientNet-lite in torch, to compare ours with; names are those of EfficientNet-PyTorch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from liveedit_jax.backbone_config import EfficientNetConfig, Stage


class Conv(nn.Conv2d):
    """A convolution without bias and with TensorFlow's SAME padding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve maps [B, C, I, J]."""
        pads = []
        for n, k, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            pad = max((-(-n // stride) - 1) * stride + k - n, 0)
            pads += [pad // 2, pad - pad // 2]
        return super().forward(functional.pad(x, pads))


def _norm(width: int, eps: float) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=eps)


class Block(nn.Module):
    """An inverted bottleneck block."""

    def __init__(self, width: int, stage: Stage, stride: int, eps: float):
        """Create the layers under their published names."""
        super().__init__()
        inner = width * stage.expand_ratio
        if stage.expand_ratio != 1:
            self._expand_conv = Conv(width, inner, 1, bias=False)
            self._bn0 = _norm(inner, eps)
        self._depthwise_conv = Conv(
            inner, inner, stage.kernel_size, stride, groups=inner, bias=False
        )
        self._bn1 = _norm(inner, eps)
        self._project_conv = Conv(inner, stage.width, 1, bias=False)
        self._bn2 = _norm(stage.width, eps)
        self.added = stride == 1 and width == stage.width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to maps [B, C, I, J]."""
        y = x
        if hasattr(self, "_expand_conv"):
            y = functional.relu6(self._bn0(self._expand_conv(y)))
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.added else y


class EfficientNet(nn.Module):
    """Stem, blocks and head; its tokens [B, P, W] are the means of `side` x `side` windows."""

    def __init__(self, cfg: EfficientNetConfig):
        """Create the layers with random weights."""
        super().__init__()
        self.side = cfg.side
        self._conv_stem = Conv(3, cfg.stem_width, 3, 2, bias=False)
        self._bn0 = _norm(cfg.stem_width, cfg.norm_eps)
        blocks, width = [], cfg.stem_width
        for stage in cfg.stages:
            for i in range(stage.blocks_n):
                blocks.append(Block(width, stage, stage.stride if i == 0 else 1, cfg.norm_eps))
                width = stage.width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = Conv(width, cfg.width, 1, bias=False)
        self._bn1 = _norm(cfg.width, cfg.norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn pictures [B, 3, S, S] into tokens."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return functional.adaptive_avg_pool2d(x, self.side).flatten(2).transpose(1, 2)
