"""U-Nets with attention gates (Oktay et al., MIDL 2018), which weigh the positions of the skip maps.

For volumes that of SSL4MIS (6,469,328 parameters at 1 channel, 2 classes), for images its U-Net with gates (1,836,376 at 1 channel,
4 classes; SSL4MIS has none in 2D).
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from networks.unet import UNet
from networks.unet import Up as Up2D
from networks.unet_3D import WIDTHS, Family3D, PyramidHeads, start_kaiming


class Gate(nn.Module):
    """Attention over a skip map: W (sigmoid psi relu(theta skip + phi signal) * skip), at half the sides of the skip map.

    The signal, of the next coarser level, has half the sides already.
    """

    def __init__(self, channels: int, signal: int):
        super().__init__()
        self.theta = nn.Conv3d(channels, channels, 2, stride=2, bias=False)
        self.phi = nn.Conv3d(signal, channels, 1)
        self.psi = nn.Conv3d(channels, 1, 1)
        self.out = nn.Sequential(nn.Conv3d(channels, channels, 1), nn.BatchNorm3d(channels))

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        attention = self.psi((self.theta(skip) + self.phi(signal)).relu()).sigmoid()
        return self.out(interpolate(attention, scale_factor=2.0, mode="trilinear", align_corners=False) * skip)


class TwoGates(nn.Module):
    """Two gates side by side, joined: (B, a, *sides) and a signal (B, b, *sides/2) -> (B, a, *sides)."""

    def __init__(self, channels: int, signal: int):
        super().__init__()
        self.gates = nn.ModuleList(Gate(channels, signal) for _ in range(2))
        self.join = nn.Sequential(nn.Conv3d(2 * channels, channels, 1), nn.BatchNorm3d(channels), nn.ReLU(inplace=True))

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        return self.join(torch.cat([gate(skip, signal) for gate in self.gates], dim=1))


class AttentionUNet3D(Family3D):
    """3D U-Net whose skip maps of levels 2 to 4 pass attention gates; logits of four scales are joined by a 1x1x1 convolution.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: has no effect, the published network has none.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 2, dropout: float = 1.0):
        super().__init__(in_channels)
        self.signal = nn.Sequential(nn.Conv3d(WIDTHS[-1], WIDTHS[-1], 1), nn.InstanceNorm3d(WIDTHS[-1]), nn.ReLU(inplace=True))
        self.attention = nn.ModuleList(TwoGates(a, b) for a, b in zip(WIDTHS[-2:0:-1], WIDTHS[:1:-1]))
        self.heads = PyramidHeads(num_classes)
        self.out = nn.Conv3d(4 * num_classes, num_classes, 1)
        start_kaiming(self)

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """The five maps of the encoder -> four of the decoder, (B, 16, X, Y, Z) first."""
        finest, *skips, x = maps
        signal = self.signal(x)
        decoded: list[Tensor] = []
        for up, attention, skip in zip(self.up, self.attention, reversed(skips)):
            x = signal = up(x, attention(skip, signal))
            decoded.insert(0, x)
        return [self.up[-1](x, finest), *decoded]

    def head(self, features: list[Tensor]) -> Tensor:
        """The four maps -> logits (B, num_classes, X, Y, Z)."""
        return self.out(torch.cat(self.heads(features), dim=1))


class Gate2D(nn.Module):
    """The gate that 2D attention U-Nets share: skip * sigmoid(BN psi(relu(BN theta(skip) + BN phi(signal)))), both maps of one size.

    Unlike in 3D the signal is enlarged before, the positions are weighed at full resolution, and every projection is normalised.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.theta, self.phi = (nn.Sequential(nn.Conv2d(channels, channels // 2, 1), nn.BatchNorm2d(channels // 2)) for _ in range(2))
        self.psi = nn.Sequential(nn.Conv2d(channels // 2, 1, 1), nn.BatchNorm2d(1))

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        return skip * self.psi((self.theta(skip) + self.phi(signal)).relu()).sigmoid()


class GatedUp(Up2D):
    """Doubles the sides, joins what the gate leaves of the skip map (skip first) and convolves."""

    def __init__(self, a: int, b: int):
        super().__init__(a, b, transposed=False)
        self.gate = Gate2D(b)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        signal = self.enlarge(self.reduce(x))
        return self.conv(torch.cat([self.gate(skip, signal), signal], dim=1))


class AttentionUNet2D(UNet):
    """`UNet` (its widths, blocks, dropout and bilinear up-sampling) whose four skip maps pass attention gates.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the rates of the encoder (0.05 to 0.5); 0 switches dropout off.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__(in_channels, num_classes, dropout=dropout)
        self.up = nn.ModuleList(GatedUp(a, b) for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1]))
