"""PG-FANet (Jin et al., Expert Systems with Applications 238, 2024): two ResNet-34 in succession, whose maps of all levels are joined."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Network, chain
from networks.resnet import ResNet

RATES = (6, 12, 18, 24)
JOINED = 32
"""Channels to which each map is reduced before they are added."""


class DilatedSum(nn.Module):
    """The sum of 3x3 convolutions of rising dilation, (B, a, h, w) -> logits (B, num_classes, h, w).

    Args:
        branches: how many of the four are summed; those that are not take no gradient. The published program builds four and leaves its
            loop behind the second.
    """

    def __init__(self, a: int, num_classes: int, branches: int):
        super().__init__()
        self.branches = branches
        self.convolutions = nn.ModuleList(nn.Conv2d(a, num_classes, 3, padding=rate, dilation=rate) for rate in RATES)
        for number, convolution in enumerate(self.convolutions):
            nn.init.normal_(convolution.weight, 0.0, 0.01)  # type: ignore[arg-type]
            convolution.requires_grad_(number < branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([convolution(x) for convolution in self.convolutions[: self.branches]]).sum(0)


def reduced(a: int, b: int) -> nn.Sequential:
    """1x1 convolution - BN - PReLU."""
    return nn.Sequential(nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.PReLU())


class PGFANet(Network):
    """The first encoder predicts; where it sees anything, the second one is told, and predicts from the maps of both.

    Two logits: the second stage's, which are tested, and the first's. 42,737,753 parameters at 3 channels, 3 classes.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        branches: of the dilated convolutions that predict, 2 (published) or 4 (meant).
    """

    dimensions = 2
    multiple = 8
    several_heads = True
    pretrained = "resnet34-b627a593.pth"

    def __init__(self, in_channels: int = 3, num_classes: int = 3, branches: int = 2):
        super().__init__()
        self.first = ResNet(34, in_channels, output_stride=8)
        self.second = ResNet(34, in_channels, output_stride=8)
        self.second.conv1, self.second.bn1 = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        stem, widths = self.first.bn1.num_features, self.first.channels
        self.guide = nn.Conv2d(stem + 1, stem, 1, bias=False)
        self.scores = nn.ModuleList(DilatedSum(widths[-1], num_classes, branches) for _ in range(2))
        self.scales = nn.ModuleList(reduced(width, JOINED) for _ in range(2) for width in widths[:3])
        self.scales_join = reduced(JOINED, JOINED)
        self.stages = nn.ModuleList(reduced(widths[3], JOINED) for _ in range(2))
        self.out = nn.Conv2d(JOINED + num_classes, num_classes, 1)
        self.auxiliary_out = nn.Conv2d(num_classes, num_classes, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> four maps of the first encoder, (B, 64, H/4, W/4) to (B, 512, H/8, W/8), four of the second, and the
        first's logits (B, num_classes, H/8, W/8). Raises ValueError where a side is no multiple of 8."""
        self.check(x)
        stem = F.relu(self.first.bn1(self.first.conv1(x)))
        first = levels(self.first, stem)
        scores = self.scores[0](first[-1])
        seen = resized(scores.detach(), stem.shape[2:]).argmax(1, keepdim=True) > 0
        return [*first, *levels(self.second, self.guide(torch.cat([stem, seen.to(stem.dtype)], dim=1))), scores]

    def joined(self, maps: list[Tensor]) -> Tensor:
        """What the main head reads: (B, 32 + num_classes, H/4, W/4)."""
        first, second, sides = maps[:4], maps[4:8], maps[0].shape[2:]
        scales = [resized(scale(x), sides) for scale, x in zip(self.scales, [*first[:3], *second[:3]])]
        stages = [resized(stage(x), sides) for stage, x in zip(self.stages, (first[3], second[3]))]
        fused = self.scales_join(torch.stack(scales).sum(0)) + torch.stack(stages).sum(0)
        return torch.cat([fused, resized(self.scores[1](second[3]), sides)], dim=1)

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """The nine maps -> what the main head reads, and what the other one reads: the first's logits at (H, W)."""
        return [self.joined(maps), resized(maps[-1], [4 * side for side in maps[0].shape[2:]])]

    def head(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Both -> the logits of the second and of the first stage, (B, num_classes, H, W)."""
        return self.main_head(features[0]), self.auxiliary_out(features[1])

    def main_head(self, features: Tensor) -> Tensor:
        """(B, 32 + num_classes, H/4, W/4) -> the main logits (B, num_classes, H, W)."""
        return resized(self.out(features), [4 * side for side in features.shape[2:]])

    def main(self, maps: list[Tensor]) -> Tensor:
        """The nine maps -> the main logits alone."""
        return self.main_head(self.joined(maps))

    def offered(self, name: str) -> list[str]:
        """The file has the tensors of either encoder; the second has no stem."""
        return [f"first.{name}", f"second.{name}"]


def levels(encoder: ResNet, stem: Tensor) -> list[Tensor]:
    """The four maps that an encoder makes of its stem's, which is halved first."""
    return chain([encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4], F.max_pool2d(stem, 3, 2, 1))


def resized(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Bilinear, with aligned corners."""
    return F.interpolate(x, size=tuple(sides), mode="bilinear", align_corners=True)
