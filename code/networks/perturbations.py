"""Perturbations of images and of feature maps. All draws come from torch's default generator, which a run seeds anew at each step."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def noisy(images: Tensor, deviation: float) -> Tensor:
    """images + n, n from a normal distribution of mean 0 and this standard deviation, clipped at twice that (SSL4MIS)."""
    return images + (deviation * torch.randn_like(images)).clamp(-2 * deviation, 2 * deviation)


def feature_noise(x: Tensor, largest: float) -> Tensor:
    """x + x n, n ~ U(-largest, largest) of shape (C, *sides): one draw for all images (CCT; Ouali et al., CVPR 2020)."""
    return x + x * torch.empty_like(x[0]).uniform_(-largest, largest)


def feature_dropout(x: Tensor, share: tuple[float, float]) -> Tensor:
    """x (B, C, *sides) without its most active places: 0 where the mean over channels is not below g times its largest in the image.

    One g ~ U(share) for all images; what is kept is not scaled. Where the mean is negative everywhere nothing is set to 0 (CCT).
    """
    attention = x.detach().mean(1, keepdim=True)
    g = torch.empty((), device=x.device, dtype=x.dtype).uniform_(*share)
    return x * (attention < g * attention.amax(tuple(range(1, x.dim())), keepdim=True))


def without_channels(maps: Sequence[Tensor], share: float) -> list[Tensor]:
    """Maps (B, C, *sides) with a random share of the channels of each image set to 0 and the others scaled up, each map by itself."""
    return [torch.feature_dropout(x, share, True) for x in maps]
