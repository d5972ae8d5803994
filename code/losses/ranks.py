"""Sums over the rows of all processes of a run (torchrun), with gradients; with one process the values themselves, untouched.

A loss that is no mean over rows (soft Dice, a mean over counted pixels) needs the sums of the whole batch, of which a process has its
rows only. Each process then holds the same value, and its gradients are averaged over processes afterwards (`Stage.update`). For that
mean to be the gradient of one process with the whole batch, the backward of the sum is the sum of what comes back: the gradient of
R equal losses, of which the mean takes the R-th part.

Every process must call these functions in the same order. A process that has no rows in a step is given one whose labels are all
ignored: it adds zeros.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessLost(RuntimeError):
    """Another process of the run has left in the middle of an exchange."""


def world() -> int:
    """Number of processes that share the batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(x: Tensor) -> Tensor:
    """The sum over processes, a new tensor without gradient. Raises `ProcessLost`."""
    summed = x.detach().clone(memory_format=torch.contiguous_format)
    try:
        dist.all_reduce(summed)
    except RuntimeError as error:
        raise ProcessLost(str(error)) from error
    return summed


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


def batch_sum(x: Tensor) -> Tensor:
    """A sum over this process's rows -> the sum over the rows of all."""
    return x if world() == 1 else _Sum.apply(x)


def batch_sums(*sums: Tensor) -> Sequence[Tensor]:
    """`batch_sum` of several tensors in one exchange (as float32 where their types differ)."""
    if world() == 1:
        return sums
    whole = batch_sum(torch.cat([x.reshape(-1) for x in sums]))
    return [part.view(x.shape) for part, x in zip(whole.split([x.numel() for x in sums]), sums)]


def gathered(x: Tensor) -> Tensor:
    """The rows (n, ...) of all processes, as many of each, in the order of their ranks, without gradient. Raises `ProcessLost`."""
    if world() == 1:
        return x.detach()
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
    try:
        dist.all_gather(parts, x.detach().contiguous())
    except RuntimeError as error:
        raise ProcessLost(str(error)) from error
    return torch.cat(parts)


def of_all(mine: dict[str, Any]) -> dict[str, Any]:
    """What all processes have by name, tensors and plain values; of a name that several have the last one's. Raises `ProcessLost`."""
    if world() == 1:
        return mine
    every: list[Any] = [None] * world()
    try:
        dist.all_gather_object(every, mine)
    except RuntimeError as error:
        raise ProcessLost(str(error)) from error
    return {name: value for one in every for name, value in one.items()}


def batch_mean(x: Tensor) -> Tensor:
    """A mean over this process's rows -> the mean over processes, for what is not the loss itself but enters it (a divisor, a factor)."""
    return x if world() == 1 else batch_sum(x) / world()
