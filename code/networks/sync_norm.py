"""Batch norm over the rows of all processes of a run: the same layers, parameters and buffers, with the statistics of the whole batch.

PyTorch's own refuses CPU tensors. In evaluation these layers are ordinary ones.
"""
from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from losses.ranks import total, world


def synchronise(network: nn.Module) -> nn.Module:
    """Makes every batch norm of a network, in place, one over all processes; checkpoints and folding see no difference."""
    _left_out_of_graphs()
    for module in network.modules():
        for plain, synchronised in ((nn.BatchNorm2d, SyncBatchNorm2d), (nn.BatchNorm3d, SyncBatchNorm3d)):
            if type(module) is plain:
                module.__class__ = synchronised
    return network


def count_rows(network: nn.Module, counts: bool) -> None:
    """Whether the rows that a network sees next are part of the batch; those of a process that has none only stand in for them."""
    for module in network.modules():
        if isinstance(module, _SyncBatchNorm):
            module.counts = counts


@functools.cache
def _left_out_of_graphs() -> None:
    """The compiler stays out of these layers. Said at their first use, because saying it loads the compiler: seconds of every start."""
    _SyncBatchNorm.forward = torch.compiler.disable(_SyncBatchNorm.forward)  # type: ignore[method-assign]


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) with mean and variance of all processes, (B, C, *sides); also gives mean (C,), variance and count."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, counts: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes, channels = [0, *range(2, x.dim())], x.shape[1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = wide.new_full((1,), wide.numel() // channels * counts)
        variance, mean = torch.var_mean(wide, axes, correction=0)
        # Two exchanges, since sums of squares about 0 lose the digits of a variance that is small beside the mean.
        sums = total(torch.cat([count, count * mean]))
        whole, mean_of_all = sums[0], sums[1:] / sums[0]
        variance = total(count * (variance + (mean - mean_of_all) ** 2)) / whole
        shape = (1, channels, *[1] * (x.dim() - 2))
        scale = (variance + eps).rsqrt()
        normal = (wide - mean_of_all.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normal, scale, whole)
        ctx.axes, ctx.shape, ctx.counts, ctx.kind = axes, shape, counts, x.dtype
        ctx.mark_non_differentiable(mean_of_all, variance, whole)
        return normal, mean_of_all, variance, whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        normal, scale, whole = ctx.saved_tensors
        gradient = gradients[0]
        sums = torch.cat([gradient.sum(ctx.axes), (gradient * normal).sum(ctx.axes)])
        first, second = (part.view(ctx.shape) for part in (total(sums * ctx.counts) / whole).chunk(2))
        if ctx.counts:  # rows that do not count have no part in mean and variance
            gradient = gradient - first - normal * second
        return (gradient * scale.view(ctx.shape)).to(ctx.kind), None, None


class _SyncBatchNorm:
    """What a synchronised batch norm of any dimension does in train mode."""

    counts = True

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(x)  # type: ignore[misc]
        self._check_input_dim(x)
        normal, mean, variance, count = _Normalise.apply(x, self.eps, self.counts)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        shape = (1, -1, *[1] * (x.dim() - 2))
        return (normal * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


class SyncBatchNorm2d(_SyncBatchNorm, nn.BatchNorm2d):
    """(B, C, H, W)."""


class SyncBatchNorm3d(_SyncBatchNorm, nn.BatchNorm3d):
    """(B, C, X, Y, Z)."""
