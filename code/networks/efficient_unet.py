"""The U-Net of SSL4MIS with an EfficientNet-b3 as encoder (Tan and Le, ICML 2019): 13,158,236 parameters at 1 channel, 4 classes.

MONAI has the encoder, with the published names of its tensors and without torchvision.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Network

ENCODER = (40, 32, 48, 136, 384)
"""Channels of the maps at 1/2 to 1/32 of the sides."""
DECODER = (256, 128, 64, 32, 16)
STAGES = ((), (0, 1), (2,), (3, 4), (5, 6))
"""Which of the encoder's seven stages lead to each of its maps."""


class Up(nn.Sequential):
    """Doubles the sides (nearest neighbour), joins the skip map (skip last) and convolves twice: conv3x3 - BN - ReLU."""

    def __init__(self, a: int, b: int):
        super().__init__(
            nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True),
            nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True),
        )

    def join(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0)
        return self(x if skip is None else torch.cat([x, skip], dim=1))


class UNetDecoder(Network):
    """The half behind an encoder of five maps from a half to a 32nd of the sides: five levels, the last without a skip map."""

    dimensions = 2
    multiple = 32
    up: nn.ModuleList
    out: nn.Conv2d

    def grow(self, channels: Sequence[int], num_classes: int) -> None:
        """Makes the decoder, for maps of these channels."""
        skips = (*channels[-2::-1], 0)
        self.up = nn.ModuleList(Up(a + skip, b) for a, skip, b in zip((channels[-1], *DECODER), skips, DECODER))
        self.out = nn.Conv2d(DECODER[-1], num_classes, 1)
        for module in self.up.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The five maps -> features (B, 16, H, W)."""
        x = maps[-1]
        for up, skip in zip(self.up, [*maps[-2::-1], None]):
            x = up.join(x, skip)  # type: ignore[operator]
        return x

    def head(self, features: Tensor) -> Tensor:
        """(B, 16, H, W) -> logits (B, num_classes, H, W)."""
        return self.out(features)


class EfficientUNet(UNetDecoder):
    """EfficientNet-b3 and a decoder of five levels, the last without a skip map.

    As in the published network, the encoder's layers behind its last map (a convolution and its norm) are there and never used; here they
    take no gradient.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the encoder's rate of dropped residual branches (up to 0.2 in the last); 0 switches it off.
    """

    pretrained = "efficientnet-b3-5fb5a3c3.pth"

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__()
        try:
            from monai.networks.nets.efficientnet import EfficientNetBN  # here alone: it takes seconds to load
        except ImportError as error:
            raise ValueError("its encoder is MONAI's, which is not installed (pip install monai)") from error
        self.encoder = EfficientNetBN("efficientnet-b3", pretrained=False, spatial_dims=2, in_channels=in_channels)
        self.encoder.set_swish(memory_efficient=False)  # the other form cannot be compiled
        del self.encoder._fc, self.encoder._dropout, self.encoder._avg_pooling
        self.encoder._conv_head.requires_grad_(False)
        self.encoder._bn1.requires_grad_(False)
        blocks: list[Any] = [module for module in self.encoder.modules() if hasattr(module, "drop_connect_rate")]
        for block in blocks:
            block.drop_connect_rate *= dropout
        self.grow(ENCODER, num_classes)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> five maps from (B, 40, H/2, W/2) to (B, 384, H/32, W/32).

        Raises ValueError where a side is no multiple of 32.
        """
        self.check(x)
        encoder = self.encoder
        x = encoder._swish(encoder._bn0(encoder._conv_stem(encoder._conv_stem_padding(x))))
        maps = []
        for stages in STAGES:
            for stage in stages:
                x = encoder._blocks[stage](x)
            maps.append(x)
        return maps

    def offered(self, name: str) -> list[str]:
        """The encoder's tensors; its blocks lie in stages here."""
        block = re.match(r"_blocks\.(\d+)\.(.*)", name)
        if not block:
            return [f"encoder.{name}"]
        stages = [stage for stage, blocks in self.encoder._blocks.named_children() if block[1] in dict(blocks.named_children())]
        return [f"encoder._blocks.{stage}.{block[1]}.{block[2]}" for stage in stages]
