"""The residual V-Net of MCF (Wang et al., CVPR 2023; 17,930,354 parameters at 1 channel, 2 classes), and its form for images."""
from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from networks.base import Network, chain
from networks.initial import start_kaiming
from networks.vnet import DROPOUT, WIDTHS

BLOCKS = (3, 4, 6, 3)
"""Residual blocks of each level of the encoder below the first, as in ResNet-34."""
DEPTHS = (3, 3, 2, 1)
"""Convolutions of each level of the decoder, the coarsest first."""
LAYERS: dict[int, dict[str, Any]] = {
    2: {"conv": nn.Conv2d, "transposed": nn.ConvTranspose2d, "norm": nn.BatchNorm2d, "dropout": nn.Dropout2d},
    3: {"conv": nn.Conv3d, "transposed": nn.ConvTranspose3d, "norm": nn.BatchNorm3d, "dropout": nn.Dropout3d},
}
"""By the number of dimensions."""


class Residual(nn.Module):
    """relu(x + BN conv relu BN conv x), ResNet's basic block; where the width grows the sides halve, and a 1x1 convolution is put on x."""

    def __init__(self, a: int, b: int, conv: Any, norm: Any):
        super().__init__()
        stride = 1 if a == b else 2
        self.body = nn.Sequential(
            conv(a, b, 3, stride, 1, bias=False), norm(b), nn.ReLU(inplace=True), conv(b, b, 3, 1, 1, bias=False), norm(b))
        self.shortcut = nn.Sequential(*([] if a == b else [conv(a, b, 1, bias=False), norm(b)]))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        # Every second position first: torch 2.13's 1x1 convolution of stride 2 writes beyond its memory (CPU, 4 channels, channels last).
        second = (slice(None), slice(None), *[slice(None, None, 2)] * (x.dim() - 2))
        taken = x[second] if len(self.shortcut) else x
        return self.activation(self.body(x) + self.shortcut(taken))


class ResVNet3D(Network):
    """The decoder of a V-Net on the encoder of a ResNet-34 that keeps all sides in its first layer and has no pooling.

    Convolutions start Kaiming-normal, batch norm with weights 1 and biases 0.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rate (0.5, whole channels, before the head); 0 switches dropout off.
    """

    dimensions = 3
    multiple: int | tuple[int, ...] = 16

    def __init__(self, in_channels: int = 1, num_classes: int = 2, dropout: float = 1.0):
        super().__init__()
        conv, transposed, norm, drop = (LAYERS[self.dimensions][name] for name in ("conv", "transposed", "norm", "dropout"))

        def normalised(convolution: nn.Module, b: int) -> list[nn.Module]:
            return [convolution, norm(b), nn.ReLU(inplace=True)]

        pairs = list(zip(WIDTHS[:-1], WIDTHS[1:]))
        self.stem = nn.Sequential(*normalised(conv(in_channels, WIDTHS[0], 7, padding=3, bias=False), WIDTHS[0]))
        self.levels = nn.ModuleList(
            nn.Sequential(*(Residual(a if k == 0 else b, b, conv, norm) for k in range(count))) for (a, b), count in zip(pairs, BLOCKS))
        self.up, self.up_levels = nn.ModuleList(), nn.ModuleList()
        for (a, b), depth in zip(reversed(pairs), DEPTHS):
            self.up.append(nn.Sequential(*normalised(transposed(b, a, 2, stride=2), a)))
            self.up_levels.append(nn.Sequential(*(layer for _ in range(depth) for layer in normalised(conv(a, a, 3, padding=1), a))))
        self.dropout = drop(dropout * DROPOUT)
        self.out = conv(WIDTHS[0], num_classes, 1)
        start_kaiming(self)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, *sides) -> five maps from (B, 16, *sides) to (B, 256, *sides / 16). Raises ValueError where a side is no
        multiple of 16."""
        self.check(x)
        return chain([self.stem, *self.levels], x)

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The five maps -> features (B, 16, *sides); maps of the encoder are added, not joined."""
        x = maps[-1]
        for up, convolutions, skip in zip(self.up, self.up_levels, maps[-2::-1]):
            x = convolutions(up(x) + skip)
        return x

    def head(self, features: Tensor) -> Tensor:
        """(B, 16, *sides) -> logits (B, num_classes, *sides)."""
        return self.out(self.dropout(features))


class ResVNet2D(ResVNet3D):
    """The same for images."""

    dimensions = 2

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__(in_channels, num_classes, dropout)
