"""Ramps and learning rates: plain functions of the step (0-based)."""
from __future__ import annotations

import math
from collections.abc import Callable


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


def poly(base: float, t: float, total: float) -> float:
    """base * (1 - t / total)^0.9."""
    return base * (1.0 - t / total) ** 0.9


def _poly_delayed(step: int, base: float, total: int) -> float:
    return poly(base, max(step - 1, 0), total)


def _step(step: int, base: float, total: int) -> float:
    return base * 0.1 ** (step // 2500)


def _constant(step: int, base: float, total: int) -> float:
    return base


SCHEDULES: dict[str, Callable[[int, float, int], float]] = {
    # rate in force while iteration `step` makes its optimizer step
    "poly": _poly_delayed,  # set after the step from the old counter: the first two steps share a rate (most of SSL4MIS)
    "poly_next": lambda step, base, total: poly(base, step, total),  # set from the new counter (CPS, cross teaching, R-Drop)
    "step": _step,  # a tenth after every 2500 steps (UA-MT on LA)
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
