"""The 3D U-Nets of SSL4MIS: instance norm, trilinear resizing (unet_3D: 5,884,050 parameters at 1 channel, 2 classes)."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.base import Network, chain, climb
from networks.dropout import Dropout

WIDTHS = (16, 32, 64, 128, 256)


class ConvBlock(nn.Sequential):
    """Twice conv 3x3x3 - IN - ReLU; (B, a, X, Y, Z) -> (B, b, X, Y, Z). The instance norm has no weights and keeps no statistics."""

    def __init__(self, a: int, b: int):
        super().__init__(
            nn.Conv3d(a, b, 3, padding=1), nn.InstanceNorm3d(b), nn.ReLU(inplace=True),
            nn.Conv3d(b, b, 3, padding=1), nn.InstanceNorm3d(b), nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Doubles the sides, joins the skip map (skip first) and convolves."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.enlarge = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
        self.conv = ConvBlock(a + b, b)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.enlarge(x)], dim=1))


def start_kaiming(network: nn.Module) -> None:
    """Convolutions: weights N(0, 2 / fan in), biases as PyTorch has them. Batch norm: weights N(1, 0.02^2)."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.weight, 1.0, 0.02)


class Family3D(Network):
    """The encoder and the decoder's blocks that the 3D U-Nets of SSL4MIS share."""

    dimensions = 3
    multiple = 16
    instance_norm = True

    def __init__(self, in_channels: int):
        super().__init__()
        self.stem = ConvBlock(in_channels, WIDTHS[0])
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool3d(2), ConvBlock(a, b)) for a, b in zip(WIDTHS[:-1], WIDTHS[1:]))
        self.up = nn.ModuleList(Up(a, b) for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1]))

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, X, Y, Z) -> five maps from (B, 16, X, Y, Z) to (B, 256, X/16, Y/16, Z/16).

        Raises ValueError where a side is no multiple of 16, and at 16 x 16 x 16, where the coarsest map has nothing to normalise over.
        """
        self.check(x)
        return chain([self.stem, *self.down], x)


class UNet3D(Family3D):
    """3D U-Net with five levels and instance norm.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rate (0.3, of the coarsest map and before the head); 0 switches dropout off.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 2, dropout: float = 1.0):
        super().__init__(in_channels)
        self.dropout = Dropout(dropout * 0.3)
        self.out = nn.Conv3d(WIDTHS[0], num_classes, 1)
        start_kaiming(self)

    def encode(self, x: Tensor) -> list[Tensor]:
        """As the family's encoder, dropout applied to the coarsest map."""
        *skips, coarsest = super().encode(x)
        return [*skips, self.dropout(coarsest)]

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The five maps -> features (B, 16, X, Y, Z)."""
        return climb(self.up, maps)

    def head(self, features: Tensor) -> Tensor:
        """(B, 16, X, Y, Z) -> logits (B, num_classes, X, Y, Z)."""
        return self.out(self.dropout(features))


class PyramidHeads(nn.ModuleList):
    """A 1x1x1 convolution for each map of the decoder, its logits enlarged trilinearly to the sides of the finest."""

    def __init__(self, num_classes: int):
        super().__init__(
            nn.Sequential(nn.Conv3d(a, num_classes, 1),
                          nn.Upsample(scale_factor=2**k, mode="trilinear", align_corners=False) if k else nn.Identity())
            for k, a in enumerate(WIDTHS[:-1])
        )

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        """Four maps, (B, 16, X, Y, Z) first -> four logits (B, num_classes, X, Y, Z)."""
        return tuple(head(x) for head, x in zip(self, maps))


class UNet3DPyramid(Family3D):
    """The 3D U-Net of URPC (Luo et al., MICCAI 2021): predicts at four scales. `unet_3D_dv_semi` in SSL4MIS; 5,884,504 parameters.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rates (0.1, 0.2, 0.3, 0.5 from the finest map of the decoder to the coarsest, whole
            channels; what is left goes on to the next finer level); 0 switches dropout off.
    """

    several_heads = True

    def __init__(self, in_channels: int = 1, num_classes: int = 2, dropout: float = 1.0):
        super().__init__(in_channels)
        self.dropouts = nn.ModuleList(nn.Dropout3d(dropout * rate) for rate in (0.5, 0.3, 0.2, 0.1))
        self.heads = PyramidHeads(num_classes)
        start_kaiming(self)

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """The five maps of the encoder -> four of the decoder, (B, 16, X, Y, Z) first."""
        x = maps[-1]
        decoded: list[Tensor] = []
        for up, skip, dropout in zip(self.up, maps[-2::-1], self.dropouts):
            x = dropout(up(x, skip))
            decoded.insert(0, x)
        return decoded

    def head(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """The four maps -> four logits (B, num_classes, X, Y, Z), of the finest map first."""
        return self.heads(features)
