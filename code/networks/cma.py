"""The networks of CAML (Gao et al., MICCAI 2023) beside a plain V-Net or U-Net.

What is trained on LA has 20,128,836 parameters: a V-Net (9,448,866), a V-Net with attention (10,672,290) and the heads (7,680).
"""
from __future__ import annotations

from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from networks import unet, vnet
from networks.base import chain

LEVEL = 3
"""Of the encoder, counted from 0: the map that attention is on."""


class CrossSampleAttention(nn.Module):
    """Attention among the positions of each sample, then among the samples of the batch at each position; (B, C, *sides).

    In train mode alone: in a test the map is what comes in. Two transformer layers as torch has them, norms last, without code for places.
    """

    def __init__(self, channels: int, dropout: float = 1.0):
        super().__init__()
        layer = partial(nn.TransformerEncoderLayer, channels, 4, 4 * channels, 0.5 * dropout)
        self.intra, self.inter = layer(), layer()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        within = self.intra(x.flatten(2).permute(2, 0, 1))  # a sequence of positions
        across = self.inter(within.transpose(0, 1))  # a sequence of samples
        return across.transpose(1, 2).reshape(x.shape)


class VNetCMA(vnet.VNet):
    """V-Net with attention across samples on its fourth map, and a decoder that resizes linearly (aligned corners) and convolves."""

    def __init__(self, in_channels: int = 1, num_classes: int = 2, dropout: float = 1.0):
        super().__init__(in_channels, num_classes, dropout)
        self.attention = CrossSampleAttention(vnet.WIDTHS[LEVEL], dropout)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True), nn.Conv3d(b, a, 3, padding=1),
                          nn.BatchNorm3d(a), nn.ReLU(inplace=True))
            for a, b in zip(vnet.WIDTHS[-2::-1], vnet.WIDTHS[:0:-1]))

    def encode(self, x: Tensor) -> list[Tensor]:
        self.check(x)
        maps = [self.levels[0](x)]
        for k, (down, convolutions) in enumerate(zip(self.down, self.levels[1:]), 1):
            found = convolutions(down(maps[-1]))
            maps.append(self.attention(found) if k == LEVEL else found)
        maps[-1] = self.dropout(maps[-1])
        return maps


class UNetCMA(unet.UNet):
    """U-Net with attention across samples on its fourth map."""

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__(in_channels, num_classes, dropout=dropout)
        self.attention = CrossSampleAttention(unet.WIDTHS[LEVEL], dropout)

    def encode(self, x: Tensor) -> list[Tensor]:
        self.check(x)
        maps = chain([self.stem, *self.down[:LEVEL]], x)
        maps[-1] = self.attention(maps[-1])
        return maps + chain(self.down[LEVEL:], maps[-1])


class CorrelationHeads(nn.Module):
    """Features of positions (n, features) -> vectors (n, 32) by a projection and then a prediction, each of two linear layers.

    Args:
        features: channels of the maps.
    """

    def __init__(self, features: int = 16, width: int = 32):
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, width))
        self.prediction = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, width))

    def forward(self, rows: Tensor, remembered: bool = False) -> Tensor:
        """`remembered`: the projection alone, by its running statistics."""
        if not remembered:
            return self.prediction(self.projection(rows))
        first, norm, last = self.projection[0], cast(nn.BatchNorm1d, self.projection[1]), self.projection[3]
        return last(F.batch_norm(first(rows), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).relu())
