"""One encoder and three decoders that attend differently: to channels and places, to places, to channels (CDMA; Zhong et al., MICCAI 2023).

`mtnet` is the published network, with a ResNet-50 for photographs; `unet_cdma` has the encoder and the decoder's blocks of `unet`.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import unet
from networks.base import Network, climb
from networks.dropout import Dropout
from networks.resnet import ResNet
from networks.unet import Up
from networks.unet_heads import SeveralHeads

RATES = (6, 12, 18)
"""Dilations of the pyramid."""
WIDTHS = (256, 48)
"""Channels of pyramid and decoders, and those to which the finest map is reduced."""
GROUPS = 4
"""Of their norms."""
REDUCTION = 16


class ChannelAttention(nn.Module):
    """x times sigmoid(MLP(mean over places) + MLP(maximum over places)), a number for each channel (Woo et al., ECCV 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(channels // REDUCTION, 1)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.ReLU(inplace=True), nn.Conv2d(inner, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.mlp(x.mean((2, 3), keepdim=True)) + self.mlp(x.amax((2, 3), keepdim=True))).sigmoid()


class SpatialAttention(nn.Module):
    """x times sigmoid(7x7 convolution of [mean over channels, maximum over channels]), a number for each place (Woo et al., ECCV 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)).sigmoid()


ATTENTIONS: tuple[Callable[[int], nn.Module], ...] = (
    lambda channels: nn.Sequential(ChannelAttention(channels), SpatialAttention()),
    lambda channels: SpatialAttention(),
    ChannelAttention,
)
"""What the three decoders attend to, the main one first: a number of channels -> a module that keeps the shape."""


class AttentiveUp(Up):
    """A block of the U-Net's decoder with attention on the joined maps."""

    def __init__(self, a: int, b: int, attention: Callable[[int], nn.Module]):
        super().__init__(a, b, transposed=False)
        self.attention = attention(2 * b)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(self.attention(torch.cat([skip, self.enlarge(self.reduce(x))], dim=1)))


class UNetCDMA(SeveralHeads):
    """The U-Net with three decoders (3,102,908 parameters at 1 channel, 4 classes).

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rates of the encoder; 0 switches dropout off.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__(in_channels, num_classes, dropout=dropout)
        pairs = list(zip(unet.WIDTHS[:0:-1], unet.WIDTHS[-2::-1]))
        main, *auxiliary = (nn.ModuleList(AttentiveUp(a, b, attention) for a, b in pairs) for attention in ATTENTIONS)
        self.up = main
        self.auxiliary = nn.ModuleList(auxiliary)
        self.auxiliary_out = nn.ModuleList(nn.Conv2d(unet.WIDTHS[0], num_classes, 3, padding=1) for _ in auxiliary)

    def decode(self, maps: list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """The five maps -> features (B, 16, H, W) of the three decoders."""
        return [climb(ups, maps) for ups in (self.up, *self.auxiliary)]

    def head(self, features: list[Tensor]) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Features of the decoders -> three logits (B, num_classes, H, W)."""
        return tuple(out(x) for out, x in zip((self.out, *self.auxiliary_out), features))


def convolution(a: int, b: int, kernel: int, dilation: int = 1) -> list[nn.Module]:
    """convolution - GroupNorm that keeps the sides."""
    return [nn.Conv2d(a, b, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False), nn.GroupNorm(GROUPS, b)]


class Pyramid(nn.Module):
    """1x1, dilated 3x3 and the mean of the image, joined and projected; (B, a, h, w) -> (B, 256, h, w)."""

    def __init__(self, a: int, dropout: float):
        super().__init__()
        width = WIDTHS[0]
        kinds = [(1, 1), *((3, rate) for rate in RATES)]
        self.branches = nn.ModuleList(nn.Sequential(*convolution(a, width, *kind), nn.ReLU(inplace=True)) for kind in kinds)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *convolution(a, width, 1), nn.ReLU(inplace=True))
        self.project = nn.Sequential(*convolution((len(kinds) + 1) * width, width, 1), nn.ReLU(inplace=True), Dropout(0.5 * dropout))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.pooled(x).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))


class AttentiveDecoder(nn.Module):
    """The finest map (B, a, H/4, W/4) and the pyramid's -> features (B, 256, H/4, W/4), with attention before and behind a convolution."""

    def __init__(self, a: int, num_classes: int, attention: Callable[[int], nn.Module], dropout: float):
        super().__init__()
        width, low = WIDTHS
        self.low = nn.Sequential(*convolution(a, low, 1), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            attention(low + width), *convolution(low + width, width, 3), attention(width), nn.ReLU(inplace=True), Dropout(0.5 * dropout),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(inplace=True), Dropout(0.1 * dropout))
        self.out = nn.Conv2d(width, num_classes, 1)

    def forward(self, finest: Tensor, deep: Tensor) -> Tensor:
        return self.body(torch.cat([self.low(finest), resized(deep, finest)], dim=1))


class MTNet(Network):
    """A ResNet-50 at output stride 16, a pyramid of dilated convolutions, and three decoders at a quarter of the sides.

    42,993,966 parameters at 3 channels, 2 classes.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        stored_norm: batch norm of the encoder keeps its statistics (published, with ImageNet weights), while its factors learn.
        dropout: multiplies the published rates (0.5 behind the pyramid, 0.5 and 0.1 in the decoders); 0 switches dropout off.
    """

    dimensions = 2
    multiple = 16
    several_heads = True
    pretrained = "resnet50-0676ba61.pth"
    backbone_name = "backbone"
    passed_over: tuple[str, ...] = ("fc.weight", "fc.bias")

    def __init__(self, in_channels: int = 3, num_classes: int = 2, stored_norm: bool = False, dropout: float = 1.0):
        super().__init__()
        self.stored_norm = stored_norm
        self.backbone = ResNet(50, in_channels)
        finest, coarsest = self.backbone.channels[0], self.backbone.channels[-1]
        self.pyramid = Pyramid(coarsest, dropout)
        self.decoders = nn.ModuleList(AttentiveDecoder(finest, num_classes, attention, dropout) for attention in ATTENTIONS)

    def train(self, mode: bool = True) -> MTNet:
        """As everywhere, but for the encoder's batch norm where that keeps its statistics."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d) and self.stored_norm:
                module.eval()
        return self

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> the encoder's first map at H/4 and the pyramid's at H/16. Raises ValueError where a side is no multiple
        of 16."""
        self.check(x)
        maps = self.backbone(x)
        return [maps[0], self.pyramid(maps[-1])]

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """The two maps -> features (B, 256, H/4, W/4) of the three decoders."""
        return [decoder(*maps) for decoder in self.decoders]

    def head(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Features of the decoders -> three logits (B, num_classes, H, W)."""
        return tuple(logits_of(decoder, x) for decoder, x in zip(self.decoders, features))

    def main(self, maps: list[Tensor]) -> Tensor:
        """The two maps -> the main logits alone."""
        return logits_of(self.decoders[0], self.decoders[0](*maps))


def logits_of(decoder: nn.Module, features: Tensor) -> Tensor:
    """A decoder's features at a quarter of the sides -> its logits at the sides of the images."""
    return F.interpolate(decoder.get_submodule("out")(features), scale_factor=4.0, mode="bilinear", align_corners=True)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, with aligned corners."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
