"""How several networks predict together."""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Ensemble(nn.Module, ABC):
    """Several networks as one; (B, C, *sides) -> (B, K, *sides) float32."""

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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.combine([member(x) for member in self.members])

    @staticmethod
    @abstractmethod
    def combine(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits of all from those of each, for the same images."""


class MeanLogits(Ensemble):
    """The mean of the networks' logits."""

    @staticmethod
    def combine(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([one.float() for one in logits]).mean(0)


class MeanProbabilities(Ensemble):
    """Logits whose softmax is the mean of the networks' softmaxes."""

    @staticmethod
    def combine(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([one.float().log_softmax(1) for one in logits]).logsumexp(0) - math.log(len(logits))


ENSEMBLES: dict[str, type[Ensemble]] = {"mean_logits": MeanLogits, "mean_probabilities": MeanProbabilities}
