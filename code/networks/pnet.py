"""PNet (Wang et al., DeepIGeoS, TPAMI 41(7), 2019) as in SSL4MIS: 486,596 parameters at 1 channel, 4 classes."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.base import Network, chain

WIDTH = 64
DILATIONS = (1, 2, 4, 8, 16)
DROPOUT = 0.3


class Block(nn.Sequential):
    """Twice dilated conv3x3 - BN - LeakyReLU; (B, a, H, W) -> (B, 64, H, W)."""

    def __init__(self, a: int, dilation: int):
        super().__init__(
            nn.Conv2d(a, WIDTH, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(WIDTH), nn.LeakyReLU(0.01, inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(WIDTH), nn.LeakyReLU(0.01, inplace=True),
        )


class PNet(Network):
    """Five blocks of growing dilation at full size, joined; nothing is ever made smaller, so images of any size fit.

    Weights start as PyTorch has them.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rate (0.3, whole channels, twice in the head); 0 switches dropout off.
    """

    dimensions = 2
    multiple = 1

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__()
        self.blocks = nn.ModuleList(Block(a, dilation) for a, dilation in zip((in_channels, *[WIDTH] * 4), DILATIONS))
        joined = WIDTH * len(DILATIONS)
        self.join = nn.Sequential(nn.Conv2d(joined, joined, 1), nn.LeakyReLU(0.01, inplace=True),
                                  nn.Conv2d(joined, 2 * WIDTH, 1), nn.LeakyReLU(0.01, inplace=True))
        self.out = nn.Sequential(nn.Dropout2d(dropout * DROPOUT), nn.Conv2d(2 * WIDTH, WIDTH, 1), nn.LeakyReLU(0.01, inplace=True),
                                 nn.Dropout2d(dropout * DROPOUT), nn.Conv2d(WIDTH, num_classes, 1))

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> five maps (B, 64, H, W), of the smallest receptive field first."""
        self.check(x)
        return chain(self.blocks, x)

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The five maps -> features (B, 128, H, W)."""
        return self.join(torch.cat(maps, dim=1))

    def head(self, features: Tensor) -> Tensor:
        """(B, 128, H, W) -> logits (B, num_classes, H, W)."""
        return self.out(features)
