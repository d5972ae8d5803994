"""Views of images or volumes that can be taken back, so that what is said of each can be laid over the others (MLB-Seg).

A view is one number an axis: the image, enlarged by its inverse about the middle; less than 0 mirrors the axis. `scales` are
(views, B, axes), and views (views * B, C, *spatial), the first view of all images first.
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataloaders.augmentation.strong_views import on

AMOUNTS = (4 / 144, 30 / 144)
"""By what share of a side a view shows less or more of an image: 4 to 30 pixels of 144 (MLB-Seg)."""


def five_views(rng: np.random.Generator, rows: int, dimensions: int, amounts: tuple[float, float] = AMOUNTS) -> np.ndarray:
    """Scales of MLB-Seg's views: the image itself, a part of it, twice more than it, and mirrored along its last axis."""
    less, more, most = rng.uniform(*amounts, (3, rows, 1))
    mirrored = np.ones((rows, dimensions))
    mirrored[:, -1] = -1
    return np.stack([scale * np.ones((rows, dimensions)) for scale in (1.0, 1 - less, 1 + more, 1 + most)] + [mirrored])


@torch.no_grad()
def viewed(x: Tensor, scales: np.ndarray, outside: float = 0.0, nearest: bool = False) -> Tensor:
    """The views of x (B, C, *spatial), without gradient: linear between values, or the nearest; `outside` where they show more than x."""
    repeated = x.repeat(len(scales), *[1] * (x.dim() - 1))
    return _resampled(repeated - outside, scales, nearest) + outside


def viewed_labels(labels: Tensor, scales: np.ndarray) -> Tensor:
    """The views (views * B, *spatial) int64 of labels (B, *spatial); 255 where they show more than there is."""
    return viewed(labels.unsqueeze(1).float(), scales, 255, nearest=True).squeeze(1).long()


@torch.no_grad()
def said_together(said: Tensor, scales: np.ndarray) -> tuple[Tensor, Tensor]:
    """What all views of an image say of a position together: the mean of those that show it, laid back over each view; no gradient.

    said (views * B, C, *spatial) -> the same, and where a view shows the image, (views * B, 1, *spatial) bool.
    """
    everywhere, views = torch.ones_like(said[:, :1]), len(scales)
    back, seen = (_resampled(x, 1 / scales).unflatten(0, (views, -1)).sum(0) for x in (said, everywhere))
    share = viewed(everywhere[: len(said) // views], scales)
    return viewed(back / seen, scales) / share.clamp(min=0.5), share > 0.5


def _resampled(x: Tensor, scales: np.ndarray, nearest: bool = False) -> Tensor:
    """x (views * B, C, *spatial) at its positions times the scales; 0 outside."""
    axes = x.dim() - 2
    moved = x.new_zeros(len(x), axes, axes + 1)
    moved.diagonal(dim1=1, dim2=2).copy_(on(x, scales.reshape(-1, axes)[:, ::-1]))  # grids name the last axis first
    grid = F.affine_grid(moved, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, "nearest" if nearest else "bilinear", "zeros", align_corners=False)
