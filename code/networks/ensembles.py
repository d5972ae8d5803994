"""How several networks predict together."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class MeanLogits(nn.Module):
    """The mean of several networks' logits; (B, C, H, W) -> (B, K, H, W) float32."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def multiple(self) -> int | tuple[int, ...]:
        """What sides of an image must be multiples of, for all members (`Network.multiple`)."""
        each: list[Any] = [member.multiple for member in self.members]
        axes = max(1 if isinstance(one, int) else len(one) for one in each)
        sides = zip(*((one,) * axes if isinstance(one, int) else one for one in each))
        common = tuple(math.lcm(*multiples) for multiples in sides)
        return common[0] if axes == 1 else common

    @staticmethod
    def combine(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """From the members' logits for the same images."""
        return torch.stack([one.float() for one in logits]).mean(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.combine([member(x) for member in self.members])


ENSEMBLES = {"mean_logits": MeanLogits}
