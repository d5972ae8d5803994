"""The V-Net of UA-MT and of the LA benchmark (16 filters, batch norm: 9,448,866 parameters at 1 channel, 2 classes), in any width."""
from __future__ import annotations

from torch import Tensor, nn

from networks.base import Network

WIDTHS = (16, 32, 64, 128, 256)
DEPTHS = (1, 2, 3, 3, 3)
DROPOUT = 0.5


def normalised(convolution: nn.Module, b: int) -> nn.Sequential:
    """convolution - BN - ReLU."""
    return nn.Sequential(convolution, nn.BatchNorm3d(b), nn.ReLU(inplace=True))


def level(depth: int, a: int, b: int) -> nn.Sequential:
    """`depth` times conv 3x3x3 - BN - ReLU; (B, a, X, Y, Z) -> (B, b, X, Y, Z)."""
    return nn.Sequential(*(normalised(nn.Conv3d(a if i == 0 else b, b, 3, padding=1), b) for i in range(depth)))


class VNet(Network):
    """V-Net with five levels, without the residual connections of the original (Milletari et al., 3DV 2016), as published code has it.

    Sides halve by strided 2x2x2 convolutions and double by transposed ones; maps of the encoder are added, not joined.
    Weights start as PyTorch has them.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rate (0.5, whole channels, of the coarsest map and before the head); 0 switches dropout off.
        wide: how many times as wide as published (16 channels of the finest map) all levels are.
    """

    dimensions = 3
    multiple = 16

    def __init__(self, in_channels: int = 1, num_classes: int = 2, dropout: float = 1.0, wide: int = 1):
        super().__init__()
        widths = [wide * width for width in WIDTHS]
        pairs = list(zip(widths[:-1], widths[1:]))
        self.levels = nn.ModuleList(level(depth, a, b) for depth, a, b in zip(DEPTHS, (in_channels, *widths[1:]), widths))
        self.down = nn.ModuleList(normalised(nn.Conv3d(a, b, 2, stride=2), b) for a, b in pairs)
        self.up = nn.ModuleList(normalised(nn.ConvTranspose3d(b, a, 2, stride=2), a) for a, b in reversed(pairs))
        self.up_levels = nn.ModuleList(level(depth, a, a) for depth, a in zip(DEPTHS[-2::-1], widths[-2::-1]))
        self.dropout = nn.Dropout3d(dropout * DROPOUT)
        self.out = nn.Conv3d(widths[0], num_classes, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, X, Y, Z) -> five maps from (B, 16, X, Y, Z) to (B, 256, X/16, Y/16, Z/16), dropout applied to the last.

        Raises ValueError where a side is no multiple of 16.
        """
        self.check(x)
        maps = [self.levels[0](x)]
        for down, convolutions in zip(self.down, self.levels[1:]):
            maps.append(convolutions(down(maps[-1])))
        maps[-1] = self.dropout(maps[-1])
        return maps

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The five maps -> features (B, 16, X, Y, Z)."""
        x = maps[-1]
        for up, convolutions, skip in zip(self.up, self.up_levels, maps[-2::-1]):
            x = convolutions(up(x) + skip)
        return x

    def head(self, features: Tensor) -> Tensor:
        """(B, 16, X, Y, Z) -> logits (B, num_classes, X, Y, Z)."""
        return self.out(self.dropout(features))
