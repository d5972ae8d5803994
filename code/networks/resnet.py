"""Residual networks (He et al., CVPR 2016) as encoders of photographs: dilated, with the names of torchvision's tensors.

The last stages may keep the size of their maps and widen their convolutions' reach instead (Chen et al., ECCV 2018).
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import chain

WIDTHS = (64, 128, 256, 512)


class Basic(nn.Module):
    """3x3 - BN - ReLU - 3x3 - BN, plus the shortcut, ReLU; (B, a, H, W) -> (B, b, H/stride, W/stride)."""

    wider: ClassVar[int] = 1
    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, a: int, width: int, stride: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv2d(a, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(a, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)) + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1 - BN - ReLU - 3x3 - BN - ReLU - 1x1 - BN, plus the shortcut, ReLU; the stride is the 3x3's, the last 1x1 widens fourfold."""

    wider: ClassVar[int] = 4
    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, a: int, width: int, stride: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv2d(a, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(a, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(x), inplace=True)


BLOCKS: dict[int, tuple[type[Basic] | type[Bottleneck], Sequence[int]]] = {
    18: (Basic, (2, 2, 2, 2)), 34: (Basic, (3, 4, 6, 3)), 50: (Bottleneck, (3, 4, 6, 3)), 101: (Bottleneck, (3, 4, 23, 3)),
}
"""By depth: the kind of block and their number in each of the four stages."""


def shortcut(a: int, b: int, stride: int) -> nn.Module:
    """What a block's input is added through: itself where the shapes agree, else 1x1 - BN."""
    if a == b and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))


def deep_stem(in_channels: int) -> nn.Sequential:
    """Three 3x3 convolutions in place of one 7x7 (Zhang et al., PyTorch-Encoding); the norm of the last stands outside."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
        nn.Conv2d(64, 128, 3, 1, 1, bias=False),
    )


class ResNet(nn.Module):
    """The four stages of a residual network; (B, in_channels, H, W) -> four maps from H/4 x W/4 to H/stride x W/stride, rounded up.

    Args:
        depth: 18, 34, 50 or 101 layers.
        in_channels: channels of the images.
        deep: three 3x3 convolutions at the start in place of one 7x7.
        output_stride: 16 (the last stage dilated) or 8 (the last two). The first block of a dilated stage has the dilation of the stage
            before, as published.
    """

    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"),)

    def __init__(self, depth: int, in_channels: int = 3, deep: bool = False, output_stride: int = 16):
        super().__init__()
        block, counts = BLOCKS[depth]
        channels = 128 if deep else 64
        self.conv1: nn.Module = deep_stem(in_channels) if deep else nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.channels: list[int] = []
        """Of the four maps."""
        reached, dilation, stages = 4, 1, []
        for stage, (width, count) in enumerate(zip(WIDTHS, counts)):
            before, stride = dilation, 1 if stage == 0 or reached == output_stride else 2
            dilation *= 2 if stage and stride == 1 else 1
            reached *= stride
            blocks = [block(channels, width, stride, before)]
            channels = block.wider * width
            blocks += [block(channels, width, 1, dilation) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            self.channels.append(channels)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        return chain([self.layer1, self.layer2, self.layer3, self.layer4], x)
