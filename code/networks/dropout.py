"""Dropout whose mask is cheap on the CPU."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16


class Dropout(nn.Dropout):
    """nn.Dropout; on the CPU four elements share one 64-bit draw of torch's default generator.

    torch draws a mask there element by element, in one thread: a tenth of a training step of the U-Net. The rate is
    rounded to a multiple of 2^-16, and what is kept is scaled by the rounded rate, so the mean is exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        return dropped(x, self.p) if self.training else x


def dropped(x: Tensor, rate: float) -> Tensor:
    """x with elements set to 0 at `rate`, the others scaled up by as much, whatever mode a network is in."""
    threshold = round(rate * LEVELS)
    if x.device.type != "cpu" or not 0 < threshold < LEVELS or torch.compiler.is_compiling() or not dense(x):
        return F.dropout(x, rate)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[: x.numel()] >= threshold - LEVELS // 2
    scale = torch.tensor(LEVELS / (LEVELS - threshold), dtype=x.dtype)
    return x * (kept.as_strided(x.shape, x.stride()) * scale)


def dense(x: Tensor) -> bool:
    """True where the elements lie in memory without gaps, so that a flat mask of as many fits."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)) or (
        x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d))
