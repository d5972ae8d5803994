"""Optimizers together with how their rates go."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine.schedules import SCHEDULES, Plateau


@dataclass(frozen=True)
class Form:
    """An optimizer and its constants. None for `weight_decay` is that of its kind: sgd 1e-4, adam 0, adamw 1e-2."""

    kind: str
    momentum: float = 0.9
    weight_decay: float | None = None
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)

    def build(self, groups: list[dict[str, Any]], rate: float, device: torch.device) -> torch.optim.Optimizer:
        """SGD, Adam or AdamW; one kernel for all parameters where the device has it."""
        fused = device.type == "cuda"
        how: dict[str, Any] = {"fused": fused, "foreach": not fused}
        decay = {"sgd": 1e-4, "adam": 0.0, "adamw": 1e-2}[self.kind] if self.weight_decay is None else self.weight_decay
        if self.kind == "sgd":
            return torch.optim.SGD(groups, rate, momentum=self.momentum, weight_decay=decay, nesterov=self.nesterov, **how)
        kind = torch.optim.Adam if self.kind == "adam" else torch.optim.AdamW
        return kind(groups, rate, betas=self.betas, weight_decay=decay, **how)


class ScheduledOptimizer:
    """An optimizer, its base rate and how the rate goes. `state_dict` holds all three. `clip`: largest norm of its gradient."""

    def __init__(self, optimizer: torch.optim.Optimizer, base: float, schedule: str, factors: Sequence[float], patience: int = 50,
                 clip: float | None = None):
        self.optimizer, self.base, self.schedule, self.factors, self.clip = optimizer, base, schedule, list(factors), clip
        self.plateau = Plateau(patience) if schedule == "plateau" else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def set_rate(self, step: int, total: int) -> float:
        rate = self.plateau.rate(self.base) if self.plateau else SCHEDULES[self.schedule](step, self.base, total)
        for group, factor in zip(self.optimizer.param_groups, self.factors):
            group["lr"] = rate * factor
        return rate

    def step(self) -> None:
        """One step along the gradients that lie there, cut to the norm `clip` where there is one."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "plateau": self.plateau.state_dict() if self.plateau else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])
