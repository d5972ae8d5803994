"""The spatial-aware fusion module of SemSim (Xie et al., arXiv 2410.13486, eq. 14 to 17): a reconstruction, there is no public code.

Three maps of a U-Net's encoder become one map of features whose similarities SemSim reads; it is used in training only. The paper gives
the structure, the channels of the result (128) and its size (0.79 M parameters). Windows, heads, width of the MLP, kernels, and that there
is no positional encoding are ours; they come to 800,640 parameters.
"""
from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Network
from networks.unet import WIDTHS as UNET

STRIDES = (2, 4, 8)
"""Of the three maps against the image: stages 2, 3 and 4 of the U-Net."""


def windows_of(sides: Sequence[int], most: int = 7) -> int:
    """The largest number of windows an axis, `most` at most, that divides all three maps of an image of these sides (224: 7, 64: 4)."""
    common = gcd(*(side // STRIDES[-1] for side in sides))
    return max(count for count in range(1, most + 1) if common % count == 0)


def split(x: Tensor, windows: int) -> Tensor:
    """(B, D, H, W) -> tokens (B * windows^2, H * W / windows^2, D), the windows of an image one after the other, row by row."""
    b, d, h, w = x.shape
    tiles = x.reshape(b, d, windows, h // windows, windows, w // windows).permute(0, 2, 4, 3, 5, 1)
    return tiles.reshape(b * windows**2, -1, d)


def merge(tokens: Tensor, windows: int, sides: Sequence[int]) -> Tensor:
    """The inverse of `split`: tokens -> (B, D, *sides)."""
    h, w = sides
    tiles = tokens.reshape(-1, windows, windows, h // windows, w // windows, tokens.shape[-1]).permute(0, 5, 1, 3, 2, 4)
    return tiles.reshape(-1, tokens.shape[-1], h, w)


class Block(nn.Module):
    """Pre-norm transformer block over the tokens of a window, (B, N, D) -> (B, N, D) (eq. 15 and 16)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        b, n, d = tokens.shape
        q, k, v = self.qkv(self.norm_1(tokens)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        tokens = tokens + self.out(attended)
        return tokens + self.mlp(self.norm_2(tokens))


class SFM(nn.Module):
    """Fuses three maps of an encoder; each window of the image attends to itself at all three scales.

    Args:
        widths: channels of the three maps, the finest first; each map has half the sides of the one before.
        width: channels of the result.
        windows: windows an axis; must divide the sides of all three maps (`windows_of`).
        heads: of the attention.
    """

    def __init__(self, widths: Sequence[int] = UNET[1:4], width: int = 128, windows: int = 7, heads: int = 4):
        super().__init__()
        self.windows = windows
        self.regularise = nn.ModuleList(nn.Conv2d(channels, width, 3, padding=1) for channels in widths)
        self.block = Block(width, heads)
        self.fuse = nn.Sequential(nn.Conv2d(3 * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())

    def attend(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Three maps -> three maps of `width` channels and the same sides; no window has seen another.

        Raises ValueError where `windows` does not divide a side.
        """
        maps = [regularise(x) for regularise, x in zip(self.regularise, maps)]
        if any(side % self.windows for x in maps for side in x.shape[2:]):
            found = ", ".join("x".join(map(str, x.shape[2:])) for x in maps)
            raise ValueError(f"maps of {found} cannot be cut into {self.windows} windows an axis")
        tokens = [split(x, self.windows) for x in maps]
        attended = self.block(torch.cat(tokens, 1)).split([t.shape[1] for t in tokens], 1)
        return [merge(t, self.windows, x.shape[2:]) for t, x in zip(attended, maps)]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, widths[i], H_i, W_i), the finest first -> (B, width, H_1, W_1), the sides of the middle one; 0 or above (eq. 17)."""
        fine, middle, coarse = self.attend(maps)
        resized = [F.interpolate(x, size=middle.shape[2:], mode="bilinear") for x in (fine, coarse)]
        return self.fuse(torch.cat([resized[0], middle, resized[1]], 1))


def logits_and_fused(network: Network, fusion: SFM, images: Tensor) -> tuple[Tensor, Tensor]:
    """(logits, features fused from the second to the fourth map) of images (B, C, H, W), in one pass of the network."""
    maps = network.encode(images)
    return network.head(network.decode(maps)), fusion(maps[1:4])
