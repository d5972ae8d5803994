"""How several networks predict together."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class MeanLogits(nn.Module):
    """The mean of several networks' logits; (B, C, H, W) -> (B, K, H, W) float32."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([member(x).float() for member in self.members]).mean(0)


ENSEMBLES = {"mean_logits": MeanLogits}
