"""The 2D U-Net that carries the published figures of this field (PyMIC style, 1,813,764 parameters at 1 channel, 4 classes)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.base import Network, chain, climb
from networks.dropout import Dropout

WIDTHS = (16, 32, 64, 128, 256)
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)


class ConvBlock(nn.Sequential):
    """conv3x3 - BN - LeakyReLU - Dropout - conv3x3 - BN - LeakyReLU; (B, a, H, W) -> (B, b, H, W)."""

    def __init__(self, a: int, b: int, dropout: float):
        super().__init__(
            nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.LeakyReLU(0.01, inplace=True), Dropout(dropout),
            nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.LeakyReLU(0.01, inplace=True),
        )


class Up(nn.Module):
    """Doubles the sides, joins the skip map (skip first) and convolves."""

    def __init__(self, a: int, b: int, transposed: bool):
        super().__init__()
        self.reduce: nn.Module = nn.ConvTranspose2d(a, b, 2, stride=2) if transposed else nn.Conv2d(a, b, 1)
        self.enlarge: nn.Module = nn.Identity() if transposed else nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = ConvBlock(2 * b, b, 0.0)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.enlarge(self.reduce(x))], dim=1))


def decoder_blocks(transposed: bool = False, widths: Sequence[int] | None = None) -> nn.ModuleList:
    """The four blocks of a decoder, from the coarsest up."""
    widths = widths or WIDTHS
    return nn.ModuleList(Up(a, b, transposed) for a, b in zip(widths[:0:-1], widths[-2::-1]))


class UNet(Network):
    """U-Net with five levels.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        transposed: up-sample by 2x2 transposed convolutions instead of a 1x1 convolution and bilinear resizing with aligned
            corners. (The published code asks for the former and, by an argument that is never handed on, gets the latter.)
        dropout: multiplies the published rates of the encoder (0.05 to 0.5); 0 switches dropout off.
        finest: how many times as wide as published the finest level is (2 in SCP-Net).
    """

    dimensions = 2
    multiple = 16

    def __init__(self, in_channels: int = 1, num_classes: int = 4, transposed: bool = False, dropout: float = 1.0,
                 finest: int = 1):
        super().__init__()
        widths = (finest * WIDTHS[0], *WIDTHS[1:])
        rates = [dropout * rate for rate in DROPOUT]
        self.stem = ConvBlock(in_channels, widths[0], rates[0])
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), ConvBlock(a, b, p)) for a, b, p in zip(widths[:-1], widths[1:], rates[1:])
        )
        self.up = decoder_blocks(transposed, widths)
        self.out = nn.Conv2d(widths[0], num_classes, 3, padding=1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> five maps from (B, 16, H, W) to (B, 256, H/16, W/16).

        Raises ValueError where a side is no multiple of 16.
        """
        self.check(x)
        return chain([self.stem, *self.down], x)

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The five maps -> features (B, 16, H, W)."""
        return climb(self.up, maps)

    def head(self, features: Tensor) -> Tensor:
        """(B, 16, H, W) -> logits (B, num_classes, H, W)."""
        return self.out(features)
