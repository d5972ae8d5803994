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

    @staticmethod
    def combine(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """From the members' logits for the same images."""
        return torch.stack([one.float() for one in logits]).mean(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.combine([member(x) for member in self.members])


ENSEMBLES = {"mean_logits": MeanLogits}
