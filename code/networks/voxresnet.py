"""VoxResNet (Chen et al., NeuroImage 2018) as in SSL4MIS: 64 channels throughout, 1,992,578 parameters at 1 channel, 2 classes."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.base import Network

WIDTH = 64


class Convolutions(nn.Sequential):
    """Twice IN - ReLU - conv 3x3x3 without bias; (B, a, X, Y, Z) -> (B, 64, X, Y, Z)."""

    def __init__(self, a: int):
        super().__init__(
            nn.InstanceNorm3d(a), nn.ReLU(inplace=True), nn.Conv3d(a, WIDTH, 3, padding=1, bias=False),
            nn.InstanceNorm3d(WIDTH), nn.ReLU(inplace=True), nn.Conv3d(WIDTH, WIDTH, 3, padding=1, bias=False),
        )


class Residual(Convolutions):
    """x + convolutions(x), 64 channels."""

    def __init__(self) -> None:
        super().__init__(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class VoxResNet(Network):
    """Residual network with three halvings; its logits are made at half the sides and enlarged. Weights start as PyTorch has them.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: has no effect, the published network has none.
    """

    dimensions = 3
    multiple = 8
    instance_norm = True

    def __init__(self, in_channels: int = 1, num_classes: int = 2, dropout: float = 1.0):
        super().__init__()
        self.stem = nn.Conv3d(in_channels, WIDTH, 3, padding=1)
        self.levels = nn.ModuleList(nn.Sequential(Residual(), Residual()) for _ in range(3))
        self.pool = nn.MaxPool3d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)
        self.up = nn.ModuleList(Convolutions(2 * WIDTH) for _ in range(2))
        self.out = nn.Conv3d(WIDTH, num_classes, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, X, Y, Z) -> maps of 64 channels: two as they enter a level, at 1/2 and 1/4 of the sides, and the last at 1/8.

        Raises ValueError where a side is no multiple of 8, and at 8 x 8 x 8, where the coarsest map has nothing to normalise over.
        """
        self.check(x)
        half = self.pool(self.stem(x))
        quarter = self.pool(self.levels[0](half))
        return [half, quarter, self.levels[2](self.pool(self.levels[1](quarter)))]

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The three maps -> features (B, 64, X/2, Y/2, Z/2)."""
        x = maps[-1]
        for up, skip in zip(self.up, maps[-2::-1]):
            x = up(torch.cat([skip, self.enlarge(x)], dim=1))
        return x

    def head(self, features: Tensor) -> Tensor:
        """(B, 64, X/2, Y/2, Z/2) -> logits (B, num_classes, X, Y, Z).

        Published code enlarges first. A 1x1x1 convolution commutes with interpolation, and this order spares 64 maps of full size.
        """
        return self.enlarge(self.out(features))
