"""Similarity maps of a mini-batch (simEps; Tung and Mori, ICCV 2019)."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def similarity_map(features: Tensor) -> Tensor:
    """(B, ...) features -> (B, B) inner products of the samples, each row divided by its Euclidean norm.

    In float32 whatever comes in: sums of a million products leave the range of half precision.
    """
    flat = features.float().flatten(1)
    return F.normalize(flat @ flat.T, dim=1, eps=1e-12)


def similarity_loss(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the two similarity maps; a scalar, 0 for a batch of one."""
    return F.mse_loss(similarity_map(first), similarity_map(second))


def symmetric_similarity_loss(first: Tensor, second: Tensor) -> Tensor:
    """[l(a, stop b) + l(stop a, b)] / 2: the value of `similarity_loss`, half of its gradient to either side."""
    a, b = similarity_map(first), similarity_map(second)
    return (F.mse_loss(a, b.detach()) + F.mse_loss(a.detach(), b)) / 2
