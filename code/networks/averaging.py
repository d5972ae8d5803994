"""Copies of a network that are not trained by gradients: teachers."""
from __future__ import annotations

import copy

import torch
from torch import nn


def frozen_copy(network: nn.Module) -> nn.Module:
    """A deep copy whose parameters take no gradient (it starts in the mode of the original)."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def average_weights(teacher: nn.Module, student: nn.Module, decay: float, buffers: bool = False) -> None:
    """The moving average without warm-up: teacher <- decay * teacher + (1 - decay) * student, in place.

    Parameters only; with `buffers` the batch-norm statistics too (integer counters are computed in floating point and
    truncated, as BCP and DSSN do).
    """
    averages: list[torch.Tensor] = list(teacher.parameters())
    values: list[torch.Tensor] = list(student.parameters())
    if buffers:
        for average, value in zip(teacher.buffers(), student.buffers()):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_((decay * average.double() + (1 - decay) * value.double()).trunc())
    torch._foreach_lerp_(averages, values, 1 - decay)


def ema_update(teacher: nn.Module, student: nn.Module, step: float, decay: float, buffers: bool = False) -> None:
    """The moving average with warm-up: `average_weights` with a decay of min(1 - 1 / (step + 1), decay) (SSL4MIS).

    `step` counts from 0, so the first update copies the student. Published code averages parameters only and leaves the
    teacher's batch-norm statistics to its own forward passes.
    """
    average_weights(teacher, student, min(1 - 1 / (step + 1), decay), buffers)
