"""DeepLabv3+ (Chen et al., ECCV 2018) as the papers on semi-supervised segmentation of photographs have it: plain convolutions.

40,475,957 parameters with ResNet-50 and 59,468,085 with ResNet-101 at 21 classes (UniMatch, DSSN: deep stem, output stride 16);
40,352,181 and 59,344,309 at output stride 8 (ST++, CISC-R: torchvision's stem).
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Network, UnfitImages
from networks.dropout import Dropout
from networks.resnet import ResNet

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Dilations of the pyramid, by output stride."""
DROPOUT = {16: (0.0, 0.0), 8: (0.5, 0.1)}
"""Published rates by output stride: of whole channels behind the pyramid, of elements before the classifier."""
LOW = 48
"""Channels to which the finest map is reduced."""
FILES = {(18, False): "resnet18-f37072fd.pth", (50, False): "resnet50-0676ba61.pth", (101, False): "resnet101-63fe2227.pth",
         (50, True): "resnet50s-a75c83cf.pth", (101, True): "resnet101s-03a0f310.pth"}
"""ImageNet weights by depth and stem: torchvision's, and PyTorch-Encoding's for the deep stem."""


def convolution(a: int, b: int, kernel: int, dilation: int = 1) -> list[nn.Module]:
    """convolution - BN - ReLU that keeps the sides."""
    return [nn.Conv2d(a, b, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False), nn.BatchNorm2d(b),
            nn.ReLU(inplace=True)]


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, dilated 3x3 and the mean of the image, joined and projected; (B, a, h, w) -> (B, b, h, w)."""

    def __init__(self, a: int, b: int, rates: tuple[int, ...]):
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Sequential(*convolution(a, b, 1)), *(nn.Sequential(*convolution(a, b, 3, rate)) for rate in rates)])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *convolution(a, b, 1))
        self.project = nn.Sequential(*convolution((len(rates) + 2) * b, b, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean = resized(self.pooled(x), x.shape[2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))


class DeepLab(Network):
    """A pyramid of dilated convolutions on the last map of an encoder, and a decoder at a quarter of the sides.

    Images may have any sides. The pyramid's mean of an image is normalised over the batch, so training takes two images at least.

    Args:
        backbone: the encoder; images -> four maps from a quarter of their sides (rounded up) downwards.
        channels: of these maps.
        width: channels of the pyramid's result and of the decoder.
        num_classes: channels of the logits, background included.
        output_stride: of the encoder, 16 or 8.
        dropout: multiplies the published rates.
    """

    dimensions = 2
    multiple = 1
    backbone_name = "backbone"

    def __init__(self, backbone: nn.Module, channels: Sequence[int], width: int, num_classes: int, output_stride: int = 16,
                 dropout: float = 1.0):
        super().__init__()
        self.backbone = backbone
        finest, coarsest = channels[0], channels[-1]
        of_channels, of_elements = (dropout * rate for rate in DROPOUT[output_stride])
        self.pyramid = Pyramid(coarsest, width, RATES[output_stride])
        self.channel_dropout = nn.Dropout2d(of_channels) if of_channels else nn.Identity()
        self.reduce = nn.Sequential(*convolution(finest, LOW, 1))
        self.fuse = nn.Sequential(*convolution(LOW + width, width, 3), *convolution(width, width, 3))
        self.dropout = Dropout(of_elements)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.sides = (0, 0)
        """Of the images that were encoded last: features at a quarter of the sides do not tell 321 from 324."""

    def check(self, x: Tensor) -> None:
        super().check(x)
        if self.training and x.shape[0] == 1:
            raise UnfitImages(f"{type(self).__name__} normalises the mean of each image over the batch: training takes two images at "
                              "least, got one")

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> the four maps of the encoder, from a quarter of the sides (rounded up) downwards.

        Raises `UnfitImages` for one image in train mode.
        """
        self.check(x)
        self.sides = (x.shape[2], x.shape[3])
        return self.backbone(x)

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The four maps, of which the first and the last are read -> features (B, c, H/4, W/4).

        c is 256, with 18 layers and with Lite0 64.
        """
        deep = resized(self.channel_dropout(self.pyramid(maps[-1])), maps[0].shape[2:])
        return self.fuse(torch.cat([self.reduce(maps[0]), deep], dim=1))

    def head(self, features: Tensor) -> Tensor:
        """(B, c, H/4, W/4) -> logits (B, num_classes, H, W), of the sides that `encode` saw last.

        Raises ValueError for features of others.
        """
        if tuple(features.shape[2:]) != tuple(-(-side // 4) for side in self.sides):
            raise ValueError(f"features of {tuple(features.shape[2:])} are not those of images of {self.sides}, which were encoded last")
        return resized(self.classifier(self.dropout(features)), self.sides)


class DeepLabV3Plus(DeepLab):
    """The published networks: a residual encoder, dilated.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        depth: of the encoder, 18, 50 or 101 layers.
        deep_stem: three 3x3 convolutions at the encoder's start in place of one 7x7.
        output_stride: of the encoder, 16 or 8.
        dropout: multiplies the published rates (none at output stride 16; 0.5 of the pyramid's channels and 0.1 of the decoder's
            elements at 8); 0 switches dropout off.
    """

    passed_over: tuple[str, ...] = ("fc.weight", "fc.bias")

    def __init__(self, in_channels: int = 3, num_classes: int = 21, depth: int = 50, deep_stem: bool = False, output_stride: int = 16,
                 dropout: float = 1.0):
        backbone = ResNet(depth, in_channels, deep_stem, output_stride)
        super().__init__(backbone, backbone.channels, backbone.channels[-1] // 8, num_classes, output_stride, dropout)
        self.pretrained = FILES[depth, deep_stem]


def resized(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Bilinear, with aligned corners, as everywhere in these networks."""
    return F.interpolate(x, size=tuple(sides), mode="bilinear", align_corners=True)
