"""Swin-UNet (Cao et al., ECCVW 2022; blocks: Liu et al., ICCV 2021), tiny as in cross teaching: 27,168,420 parameters at 4 classes.

Maps inside are (B, H, W, C), so that every linear layer, norm and window reads channels that lie together.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from networks.base import Network, chain

WIDTHS = (96, 192, 384, 768)
HEADS = (3, 6, 12, 24)
DEPTH = 2
PATCH = 4
"""Side of the squares of pixels that become one position of the finest grid."""
STOCHASTIC_DEPTH = 0.2
"""Of the last block of the encoder; the first has 0, and a level of the decoder has the rates of its level in the encoder."""


def largest_window(side: int, limit: int) -> int:
    """The largest window up to `limit` that divides the side of a grid."""
    return max(window for window in range(1, limit + 1) if side % window == 0)


class Windows(NamedTuple):
    """How a grid is cut into windows, with what the attention of all blocks of a level needs."""

    sides: tuple[int, int]
    shift: tuple[int, int]
    """Of every second block; 0 along an axis that one window spans."""
    offsets: Tensor
    """(n, n) rows of the bias table, for the n positions of a window as queries and as keys."""
    apart: Tensor
    """(windows, 1, n, n): -inf between positions that are neighbours in the shifted grid only because its ends were joined."""


def windows_of(height: int, width: int, limit: int, device: torch.device) -> Windows:
    """Windows of a grid: along each axis the largest up to `limit` that divides it."""
    sides = (largest_window(height, limit), largest_window(width, limit))
    shift = (0 if sides[0] == height else sides[0] // 2, 0 if sides[1] == width else sides[1] // 2)
    rows, columns = torch.arange(sides[0], device=device), torch.arange(sides[1], device=device)
    down, right = rows[:, None] - rows + limit - 1, columns[:, None] - columns + limit - 1
    n = sides[0] * sides[1]
    offsets = (down[:, None, :, None] * (2 * limit - 1) + right[None, :, None, :]).reshape(n, n)

    def region(size: int, side: int, moved: int) -> Tensor:
        place = torch.arange(size, device=device)
        return (place >= size - side).int() + (place >= size - moved)

    regions = 3 * region(height, sides[0], shift[0])[:, None] + region(width, sides[1], shift[1])
    regions = regions.view(height // sides[0], sides[0], width // sides[1], sides[1]).transpose(1, 2).reshape(-1, n)
    different = regions[:, None, :, None] != regions[:, None, None, :]
    return Windows(sides, shift, offsets, torch.zeros(different.shape, device=device).masked_fill(different, -torch.inf))


class Attention(nn.Module):
    """Self-attention within windows, with a learned bias for each head and offset between two positions.

    The bias table is that of the largest window; a smaller one reads its middle. So the network has the same weights at every size.
    """

    def __init__(self, width: int, heads: int, limit: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * limit - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, windows: Windows, shifted: bool) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        batch, height, width, channels = x.shape
        (p, q), n = windows.sides, windows.sides[0] * windows.sides[1]
        down, right = height // p, width // q
        # One copy brings queries, keys and values into the order of the windows: (3, B, windows x heads, n, C / heads).
        qkv = self.qkv(x).view(batch, down, p, right, q, 3, self.heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        queries, keys, values = qkv.reshape(3, batch, down * right * self.heads, n, -1).unbind(0)
        bias = self.relative_position_bias_table[windows.offsets].permute(2, 0, 1)
        bias = bias + windows.apart if shifted else bias.expand(down * right, -1, -1, -1)
        out = scaled_dot_product_attention(queries, keys, values, attn_mask=bias.flatten(0, 1).to(queries.dtype))
        out = out.view(batch, down, right, self.heads, p, q, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return self.proj(out.reshape(batch, height, width, channels))


class MLP(nn.Module):
    """linear c -> 4c - GELU - linear 4c -> c."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """x + attention(LN x), then x + MLP(LN x); a shifted block rolls the grid by half a window first, and back."""

    def __init__(self, width: int, heads: int, limit: int, shifted: bool, rate: float):
        super().__init__()
        self.shifted, self.rate = shifted, rate
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, limit)
        self.norm2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        down, right = windows.shift if self.shifted else (0, 0)
        y = self.norm1(x)
        if down or right:
            y = self.attn(y.roll((-down, -right), (1, 2)), windows, True).roll((down, right), (1, 2))
        else:
            y = self.attn(y, windows, False)
        x = x + self.sometimes(y)
        return x + self.sometimes(self.mlp(self.norm2(x)))

    def sometimes(self, x: Tensor) -> Tensor:
        """Stochastic depth: in train mode 0 for a share `rate` of the images, scaled for the others; torch's generator draws."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand((len(x), 1, 1, 1), device=x.device) >= self.rate
        return x * (kept.to(x.dtype) / (1 - self.rate))


class Merge(nn.Module):
    """Halves both sides: four neighbours joined - LN - linear; (B, H, W, c) -> (B, H/2, W/2, 2c)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        # Channels of the odd row come before those of the odd column, as ImageNet weights have them.
        x = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * channels)))


class Expand(nn.Module):
    """Multiplies both sides by `factor`: linear - positions spread out - LN; (B, H, W, c) -> (B, f H, f W, b)."""

    def __init__(self, width: int, b: int, factor: int):
        super().__init__()
        self.factor = factor
        self.expand, self.norm = nn.Linear(width, factor**2 * b, bias=False), nn.LayerNorm(b)

    def forward(self, x: Tensor) -> Tensor:
        (batch, height, width, _), f = x.shape, self.factor
        x = self.expand(x).view(batch, height, width, f, f, -1).transpose(2, 3)
        return self.norm(x.reshape(batch, f * height, f * width, -1))


class Level(nn.Module):
    """Two blocks, the second shifted, and what leads on to the next level; (B, H, W, C) -> as `onwards` gives it."""

    def __init__(self, width: int, heads: int, limit: int, rates: list[float]):
        super().__init__()
        self.limit = limit
        self.blocks = nn.ModuleList(Block(width, heads, limit, bool(k % 2), rate) for k, rate in enumerate(rates))

    def transform(self, x: Tensor) -> Tensor:
        windows = windows_of(x.shape[1], x.shape[2], self.limit, x.device)
        for block in self.blocks:
            x = block(x, windows)
        return x


class Down(Level):
    """A level of the encoder: blocks, then a merge (none on the coarsest)."""

    def __init__(self, width: int, heads: int, limit: int, rates: list[float], merge: bool):
        super().__init__(width, heads, limit, rates)
        self.downsample = Merge(width) if merge else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.transform(x))


class Up(Level):
    """A level of the decoder: the skip map joined, blocks, then twice the sides (not on the finest)."""

    def __init__(self, width: int, heads: int, limit: int, rates: list[float], expand: bool):
        super().__init__(width, heads, limit, rates)
        self.join = nn.Linear(2 * width, width)
        self.upsample = Expand(width, width // 2, 2) if expand else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.upsample(self.transform(self.join(torch.cat([x, skip], dim=-1))))


class PatchEmbed(nn.Module):
    """(B, C, H, W) -> (B, H/4, W/4, 96): a linear map of each square of 4x4 pixels - LN. A grey image counts as three equal channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.grey = channels == 1
        self.proj = nn.Conv2d(3 if self.grey else channels, WIDTHS[0], PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(WIDTHS[0])

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # The convolution as a product of matrices; three equal channels cost no more than one where their weights are added first.
        weight = self.proj.weight.sum(1, keepdim=True) if self.grey else self.proj.weight
        squares = x.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return self.norm(linear(squares, weight.flatten(1), self.proj.bias))


class SwinUNet(Network):
    """A U-Net of shifted-window transformer blocks, two on each of four levels, decoder and encoder alike.

    Args:
        in_channels: channels of the images. One counts as the three of ImageNet's weights; other numbers get an embedding of their own.
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rate of stochastic depth (0 to 0.2 along the encoder); 0 switches it off.
        window: side of the windows where it divides a grid (published: 7, at 224 x 224); elsewhere the largest smaller one that does.
    """

    dimensions = 2
    multiple = PATCH * 2 ** (len(WIDTHS) - 1)
    batch_norm = False
    pretrained = "swin_tiny_patch4_window7_224.pth"

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0, window: int = 7):
        super().__init__()
        self.window = window
        last = DEPTH * len(WIDTHS) - 1
        rates = [[dropout * STOCHASTIC_DEPTH * (DEPTH * i + k) / last for k in range(DEPTH)] for i in range(len(WIDTHS))]
        plans = [(width, heads, window, rate) for width, heads, rate in zip(WIDTHS, HEADS, rates)]
        self.patch_embed = PatchEmbed(in_channels)
        self.layers = nn.ModuleList(Down(*plan, merge=plan is not plans[-1]) for plan in plans)
        self.norm = nn.LayerNorm(WIDTHS[-1])
        self.bottom = Expand(WIDTHS[-1], WIDTHS[-2], 2)
        self.layers_up = nn.ModuleList(Up(*plan, expand=plan is not plans[0]) for plan in plans[-2::-1])
        self.norm_up = nn.LayerNorm(WIDTHS[0])
        self.up = Expand(WIDTHS[0], WIDTHS[0], PATCH)
        self.out = nn.Conv2d(WIDTHS[0], num_classes, 1, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> what enters the levels, (B, 96, H/4, W/4) to (B, 384, H/16, W/16), and what leaves the last, at H/32.

        Raises ValueError where a side is no multiple of 32.
        """
        self.check(x)
        entering = chain([self.patch_embed, *self.layers[:-1]], x)
        leaving = self.norm(self.layers[-1](entering.pop()))
        return [positions.permute(0, 3, 1, 2) for positions in (*entering, leaving)]

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The maps -> features (B, 96, H, W)."""
        coarsest, *skips = [x.permute(0, 2, 3, 1) for x in reversed(maps)]
        x = self.bottom(coarsest)
        for up, skip in zip(self.layers_up, skips):
            x = up(x, skip)
        return self.up(self.norm_up(x)).permute(0, 3, 1, 2)

    def head(self, features: Tensor) -> Tensor:
        """(B, 96, H, W) -> logits (B, num_classes, H, W)."""
        return self.out(features)

    def offered(self, name: str) -> list[str]:
        """ImageNet's names are the encoder's; the level of the decoder with the same sides starts from the same blocks."""
        layer, _, rest = name.removeprefix("layers.").partition(".")
        return [name, f"layers_up.{len(WIDTHS) - 2 - int(layer)}.{rest}"] if name.startswith("layers.") and layer.isdigit() else [name]

    def remark(self, sides: tuple[int, ...]) -> str:
        """Says the windows where they are not those of ImageNet's weights."""
        grids = [[side // (PATCH * 2**level) for side in sides] for level in range(len(WIDTHS))]
        windows = ["x".join(str(largest_window(side, self.window)) for side in grid) for grid in grids]
        if set(windows) == {f"{self.window}x{self.window}"}:
            return ""
        return (f"windows of {', '.join(windows)} positions from the finest grid to the coarsest, since {self.window} does not divide all "
                f"their sides at {'x'.join(map(str, sides))} (it does at 224x224)")
