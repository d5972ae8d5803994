"""Perturbations of feature maps (Ouali et al., CVPR 2020, as SSL4MIS draws them). All draws come from torch's default generator."""
from __future__ import annotations

import torch
from torch import Tensor


def feature_noise(x: Tensor, largest: float) -> Tensor:
    """x + x n, n ~ U(-largest, largest) of shape (C, *sides): one draw for all images of the batch."""
    return x + x * torch.empty_like(x[0]).uniform_(-largest, largest)


def feature_dropout(x: Tensor, share: tuple[float, float]) -> Tensor:
    """x (B, C, *sides) without its most active places: 0 where the mean over channels is not below g times its largest in the image.

    One g ~ U(share) for all images; what is kept is not scaled. Where the mean is negative everywhere nothing is set to 0.
    """
    attention = x.detach().mean(1, keepdim=True)
    g = torch.empty((), device=x.device, dtype=x.dtype).uniform_(*share)
    return x * (attention < g * attention.amax(tuple(range(1, x.dim())), keepdim=True))
