"""Optimizers together with how their rates go."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.schedules import SCHEDULES, Plateau


def build_optimizer(kind: str, groups: list[dict[str, Any]], rate: float, betas: tuple[float, float],
                    device: torch.device) -> torch.optim.Optimizer:
    """SGD (momentum 0.9, weight decay 1e-4) or Adam (no weight decay); one kernel for all parameters where the device has it."""
    fused = device.type == "cuda"
    if kind == "sgd":
        return torch.optim.SGD(groups, rate, momentum=0.9, weight_decay=1e-4, fused=fused, foreach=not fused)
    return torch.optim.Adam(groups, rate, betas=betas, fused=fused, foreach=not fused)


class ScheduledOptimizer:
    """An optimizer, its base rate and how the rate goes. `state_dict` holds all three."""

    def __init__(self, optimizer: torch.optim.Optimizer, base: float, schedule: str, factors: Sequence[float], patience: int = 50):
        self.optimizer, self.base, self.schedule, self.factors = optimizer, base, schedule, list(factors)
        self.plateau = Plateau(patience) if schedule == "plateau" else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def set_rate(self, step: int, total: int) -> float:
        rate = self.plateau.rate(self.base) if self.plateau else SCHEDULES[self.schedule](step, self.base, total)
        for group, factor in zip(self.optimizer.param_groups, self.factors):
            group["lr"] = rate * factor
        return rate

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "plateau": self.plateau.state_dict() if self.plateau else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])
