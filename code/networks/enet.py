"""ENet (Paszke et al., arXiv:1606.02147, 2016) as in SSL4MIS: 349,284 parameters at 1 channel, 4 classes."""
from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Network

REDUCTION = 4
DROPOUT = (0.01, 0.1)
STAGE = (1, 2, "apart", 4, 1, 8, "apart", 16)
"""The bottlenecks of stages 2 and 3: 3x3 convolutions of these dilations, or 5x1 and 1x5 apart."""


def normalised(convolution: nn.Module, b: int, act: type[nn.Module] | None) -> list[nn.Module]:
    """convolution - BN - activation."""
    return [convolution, nn.BatchNorm2d(b), *([act()] if act else [])]


class Bottleneck(nn.Module):
    """act(x + branch(x)), the branch narrower by `REDUCTION`; (B, c, H, W) -> (B, c, H, W)."""

    def __init__(self, c: int, kind: int | str, dropout: float, act: type[nn.Module]):
        super().__init__()
        n = c // REDUCTION
        if isinstance(kind, str):
            middle = [*normalised(nn.Conv2d(n, n, (5, 1), padding=(2, 0), bias=False), n, act),
                      *normalised(nn.Conv2d(n, n, (1, 5), padding=(0, 2), bias=False), n, act)]
        else:
            middle = normalised(nn.Conv2d(n, n, 3, padding=kind, dilation=kind, bias=False), n, act)
        self.branch = nn.Sequential(*normalised(nn.Conv2d(c, n, 1, bias=False), n, act), *middle,
                                    *normalised(nn.Conv2d(n, c, 1, bias=False), c, act), nn.Dropout2d(dropout))
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.branch(x))


class Down(nn.Module):
    """Halves the sides: max pooling, filled up with channels of zeros, plus a strided branch; (B, a, H, W) -> (B, b, H/2, W/2)."""

    def __init__(self, a: int, b: int, dropout: float):
        super().__init__()
        n, act = a // REDUCTION, nn.PReLU
        self.missing = b - a
        self.branch = nn.Sequential(
            *normalised(nn.Conv2d(a, n, 2, stride=2, bias=False), n, act), *normalised(nn.Conv2d(n, n, 3, padding=1, bias=False), n, act),
            *normalised(nn.Conv2d(n, b, 1, bias=False), b, act), nn.Dropout2d(dropout))
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.pad(F.max_pool2d(x, 2), (0, 0, 0, 0, 0, self.missing)) + self.branch(x))


class Up(nn.Module):
    """Doubles the sides: a value goes back to where pooling found its maximum, plus a transposed branch."""

    def __init__(self, a: int, b: int, dropout: float):
        super().__init__()
        n, act = a // REDUCTION, nn.ReLU
        self.narrow = nn.Sequential(*normalised(nn.Conv2d(a, b, 1, bias=False), b, None))
        self.branch = nn.Sequential(
            *normalised(nn.Conv2d(a, n, 1, bias=False), n, act), *normalised(nn.ConvTranspose2d(n, n, 2, stride=2, bias=False), n, act),
            *normalised(nn.Conv2d(n, b, 1, bias=False), b, None), nn.Dropout2d(dropout))
        self.act = act()

    def forward(self, x: Tensor, pooled: Tensor) -> Tensor:
        """(B, a, H/2, W/2), and the map (B, b, H, W) that was pooled on the way down -> (B, b, H, W)."""
        return self.act(unpool(self.narrow(x), pooled) + self.branch(x))


def unpool(x: Tensor, pooled: Tensor) -> Tensor:
    """(B, C, H/2, W/2) -> (B, C, H, W): values where the 2x2 windows of `pooled` have their (first) maximum, 0 elsewhere.

    As `max_unpool2d`, whose scattered writes have no fixed order on a GPU.
    """
    height, width = pooled.shape[2:]
    place = F.max_pool2d(pooled.detach(), 2, return_indices=True)[1]

    def twice(values: Tensor) -> Tensor:
        return values.repeat_interleave(2, 2).repeat_interleave(2, 3)

    here = torch.arange(height * width, device=x.device).reshape(height, width)
    return twice(x) * (twice(place) == here)


def stage(c: int, kinds: Iterable[int | str], dropout: float, act: type[nn.Module]) -> list[nn.Module]:
    return [Bottleneck(c, kind, dropout, act) for kind in kinds]


class ENet(Network):
    """A small, fast network: three halvings within its first layers, then most of its layers at an eighth of the sides.

    Weights start as PyTorch has them.

    Args:
        in_channels: channels of the images, 15 at most (the first map has 16, the pooled image among them).
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rates (whole channels, 0.01 in the first stage, 0.1 later); 0 switches dropout off.
    """

    dimensions = 2
    multiple = 8

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__()
        if in_channels > 15:
            raise ValueError(f"ENet takes 15 channels at most, got {in_channels}")
        early, late = (dropout * rate for rate in DROPOUT)
        self.stem = nn.Conv2d(in_channels, 16 - in_channels, 3, stride=2, padding=1, bias=False)
        self.stem_act = nn.Sequential(nn.BatchNorm2d(16), nn.PReLU())
        self.level_1 = nn.Sequential(Down(16, 64, early), *stage(64, (1,) * 4, early, nn.PReLU))
        self.level_2 = nn.Sequential(Down(64, 128, late), *stage(128, STAGE * 2, late, nn.PReLU))
        self.up_1 = Up(128, 64, late)
        self.up_level_1 = nn.Sequential(*stage(64, (1, 1), late, nn.ReLU))
        self.up_2 = Up(64, 16, late)
        self.up_level_2 = nn.Sequential(*stage(16, (1,), late, nn.ReLU))
        self.out = nn.ConvTranspose2d(16, num_classes, 3, stride=2, padding=1, output_padding=1, bias=False)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> (B, 16, H/2, W/2), (B, 64, H/4, W/4) and (B, 128, H/8, W/8).

        The decoder reads of the first two only where their maxima lie. Raises ValueError where a side is no multiple of 8.
        """
        self.check(x)
        half = self.stem_act(torch.cat([self.stem(x), F.max_pool2d(x, 3, stride=2, padding=1)], dim=1))
        quarter = self.level_1(half)
        return [half, quarter, self.level_2(quarter)]

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The three maps -> features (B, 16, H/2, W/2)."""
        half, quarter, x = maps
        return self.up_level_2(self.up_2(self.up_level_1(self.up_1(x, quarter)), half))

    def head(self, features: Tensor) -> Tensor:
        """(B, 16, H/2, W/2) -> logits (B, num_classes, H, W)."""
        return self.out(features)
