"""Copies of a network that are not trained by gradients: teachers, and what the networks of several sites are together."""
from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn


def wide(x: torch.Tensor) -> torch.Tensor:
    """In float64; on the host where its device has none (Apple's)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


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
        counters: list[tuple[torch.Tensor, torch.Tensor]] = []
        for average, value in zip(teacher.buffers(), student.buffers()):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                counters.append((average, value))
        if counters:
            old, new = (wide(torch.stack(each)) for each in zip(*counters))
            means = (decay * old + (1 - decay) * new).trunc().to(counters[0][0])
            torch._foreach_copy_([average for average, _ in counters], list(means.unbind()))
    torch._foreach_lerp_(averages, values, 1 - decay)


def risen_decay(step: int, most: float) -> float:
    """The share of the old teacher where it rises from 1/10 at step 0 to `most`: min(most, (step + 1) / (step + 10)) (PG-FANet)."""
    return min(most, (step + 1) / (step + 10))


def ema_update(teacher: nn.Module, student: nn.Module, step: float, decay: float, buffers: bool = False) -> None:
    """The moving average with warm-up: `average_weights` with a decay of min(1 - 1 / (step + 1), decay) (SSL4MIS).

    `step` counts from 0, so the first update copies the student. Published code averages parameters only and leaves the
    teacher's batch-norm statistics to its own forward passes.
    """
    average_weights(teacher, student, min(1 - 1 / (step + 1), decay), buffers)


@torch.no_grad()
def weighted_mean(target: nn.Module, networks: Sequence[nn.Module], weights: Sequence[float]) -> None:
    """Every tensor of `target` becomes the weighted mean of those of networks like it, statistics of batch norm too, in place.

    The weights need not sum to 1; integer counters are truncated (FedAvg; McMahan et al., AISTATS 2017).
    """
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    states = [network.state_dict() for network in networks]
    for name, tensor in target.state_dict().items():
        mean = sum(share * wide(state[name]) for share, state in zip(shares.tolist(), states))
        tensor.copy_(mean if tensor.is_floating_point() else mean.trunc())
