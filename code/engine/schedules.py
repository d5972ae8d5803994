"""Ramps and learning rates: plain functions of the step (0-based); and the optimizers whose rates follow them."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


def sigmoid_rampup(t: float, length: float) -> float:
    """exp(-5 (1 - clip(t, 0, L) / L)^2): from e^-5 = 0.0067, not 0, to 1; 1 where L is 0 (Laine and Aila, ICLR 2017)."""
    if length == 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(max(t, 0.0), length) / length) ** 2)


def linear_rampup(t: float, length: float) -> float:
    """t / L for 0 <= t < L, then 1."""
    return 1.0 if t >= length else t / length


def cosine_rampdown(t: float, length: float) -> float:
    """(cos(pi t / L) + 1) / 2 for 0 <= t <= L."""
    return 0.5 * (math.cos(math.pi * t / length) + 1)


def ramp(step: int, length: float, unit: int = 150, whole: int | None = None) -> float:
    """sigmoid_rampup(floor(step / unit), length), the staircase of this field: e^-5 at step 0, not 0; 1 from `length` units on.

    A unit is `unit` steps, or, where `whole` is given, such that the ramp fills so many steps (SSL4MIS's cross_val_dev:
    floor(step / (whole / length))). Of scripts `run.ramp` is the one to call: it knows --ramp.
    """
    return sigmoid_rampup(step // unit if whole is None else step * length // whole, length)


def admitted_entropy(step: int, total: int, largest: float = math.log(2)) -> float:
    """(3/4 + 1/4 exp(-5 (1 - t / T)^2)) h: the entropy below which a prediction counts as sure, h = ln 2 in the end (UA-MT, DeSCO)."""
    return (0.75 + 0.25 * sigmoid_rampup(step, total)) * largest


def poly(base: float, t: float, total: float) -> float:
    """base * (1 - t / total)^0.9."""
    return base * (1.0 - t / total) ** 0.9


def _poly_delayed(step: int, base: float, total: float) -> float:
    return poly(base, max(step - 1, 0), total)


def _step(step: int, base: float, total: float) -> float:
    return base * 0.1 ** (step // 2500)


def _step_delayed(step: int, base: float, total: float) -> float:
    return _step(max(step - 1, 0), base, total)


EPOCHS = 300
"""Of a training by DHC's protocol."""


def epoch_before(step: int, total: float, epochs: int = EPOCHS) -> int:
    """Of a training of `total` steps in so many epochs, the epoch before that of a step, the first for the first (DHC, which sets rate and
    weight at the end of an epoch from its number)."""
    return max(int(step * epochs // total) - 1, 0)


def _poly_warm(step: int, base: float, total: float) -> float:
    warm = int(total // 20)
    return base * step / warm if step < warm else poly(base, step, total)


QUARTERS = (150, (37, 75, 112))
"""Epochs of CDMA, and those with which its rate falls."""


def _quarters(step: int, base: float, total: float) -> float:
    epochs, falls = QUARTERS
    return base * 0.1 ** sum(step * epochs // total >= epoch for epoch in falls)


def _inverse(step: int, base: float, total: float) -> float:
    return base * 20 / (20 + int(step * 120 // total))


def _cosine(step: int, base: float, total: float) -> float:
    return base * (1 + math.cos(math.pi * step / total)) / 2


def _constant(step: int, base: float, total: float) -> float:
    return base


SCHEDULES: dict[str, Callable[[int, float, float], float]] = {
    # rate in force while iteration `step` makes its optimizer step
    "poly": _poly_delayed,  # set after the step from the old counter: the first two steps share a rate (most of SSL4MIS)
    "poly_next": lambda step, base, total: poly(base, step, total),  # set from the new counter (CPS, cross teaching, R-Drop)
    "poly_epochs": lambda step, base, total: poly(base, epoch_before(step, total), EPOCHS),  # in stairs (DHC)
    "poly_warm": _poly_warm,  # a twentieth of the training rises from 0; the decay counts from the start all the same (PG-FANet)
    "step": _step,  # a tenth after every 2500 steps (UA-MT on LA)
    "step_late": _step_delayed,  # the same, one step later (MCF)
    "quarters": _quarters,  # a tenth after each quarter (CDMA)
    "inverse": _inverse,  # 20 / (20 + e) in epoch e of 120 (MLB-Seg)
    "cosine": _cosine,  # half a wave (Co-BioNet)
    "constant": _constant,
    "plateau": _constant,  # lowered by `Plateau`, which sees the validation score
}


class Plateau:
    """Divides the rate by ten when the validation score has not risen for more than `patience` validations (simEps).

    The rule of torch's ReduceLROnPlateau in mode "max" with its defaults (relative threshold 1e-4), as plain state that a
    checkpoint holds.
    """

    def __init__(self, patience: int = 50, factor: float = 0.1, smallest: float = 1e-7):
        self.patience, self.factor, self.smallest = patience, factor, smallest
        self.best, self.waited, self.scale = -math.inf, 0, 1.0

    def rate(self, base: float) -> float:
        return max(base * self.scale, min(self.smallest, base))

    def see(self, score: float) -> None:
        """Takes one validation score."""
        threshold = self.best * (1 + 1e-4) if self.best > 0 else self.best
        if score > threshold:
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.factor, 0

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited, "scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.waited, self.scale = state["best"], int(state["waited"]), state["scale"]


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
    """An optimizer, its base rate and how the rate goes. `state_dict` holds all three. `clip`: largest norm of its gradient; `stretch`: how
    many times as long as the training the schedule is."""

    def __init__(self, optimizer: torch.optim.Optimizer, base: float, schedule: str, factors: Sequence[float], patience: int = 50,
                 clip: float | None = None, stretch: float = 1.0):
        self.optimizer, self.base, self.schedule, self.factors, self.clip = optimizer, base, schedule, list(factors), clip
        self.stretch = stretch
        self.plateau = Plateau(patience) if schedule == "plateau" else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def set_rate(self, step: int, total: int) -> float:
        rate = self.plateau.rate(self.base) if self.plateau else SCHEDULES[self.schedule](step, self.base, self.stretch * total)
        for group, factor in zip(self.optimizer.param_groups, self.factors):
            group["lr"] = rate * factor
        return rate

    @property
    def rate(self) -> float:
        """Of the first parameters, in force."""
        return self.optimizer.param_groups[0]["lr"]

    @torch.no_grad()
    def ahead(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the parameters would be after a step of plain SGD (with momentum) along these gradients, of which the norm is not cut.

        Neither they nor the momentum change. Raises TypeError for another kind of optimizer.
        """
        if not isinstance(self.optimizer, torch.optim.SGD):
            raise TypeError(f"{type(self.optimizer).__name__}: a step ahead is made of SGD alone")
        groups = [group for group in self.optimizer.param_groups for _ in group["params"]]
        found = []
        for parameter, group, gradient in zip(self.parameters, groups, gradients):
            move = gradient + group["weight_decay"] * parameter
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                move = move + group["momentum"] * momentum
            found.append(parameter - group["lr"] * move)
        return found

    def step(self) -> None:
        """One step along the gradients that lie there, cut to the norm `clip` where there is one."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()

    def forget(self) -> None:
        """As if no step had been made: without momentum and without averages of gradients. The rate stays."""
        self.optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "plateau": self.plateau.state_dict() if self.plateau else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])
