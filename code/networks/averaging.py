"""Copies of a network that are not trained by gradients: teachers."""
from __future__ import annotations

import copy

import torch
from torch import nn


def frozen_copy(network: nn.Module) -> nn.Module:
    """A deep copy whose parameters take no gradient (it starts in the mode of the original)."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def average_weights(teacher: nn.Module, student: nn.Module, keep: float, buffers: bool = False) -> None:
    """teacher <- keep * teacher + (1 - keep) * student, in place.

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
                average.copy_((keep * average.double() + (1 - keep) * value.double()).trunc())
    torch._foreach_lerp_(averages, values, 1 - keep)


def ema_update(teacher: nn.Module, student: nn.Module, step: int, decay: float, buffers: bool = False) -> None:
    """Mean-teacher average with warm-up: keeps min(1 - 1 / (step + 1), decay) of the teacher.

    `step` counts from 0, so the first update copies the student. Published code averages parameters only and leaves the
    teacher's batch-norm statistics to its own forward passes.
    """
    average_weights(teacher, student, min(1 - 1 / (step + 1), decay), buffers)
