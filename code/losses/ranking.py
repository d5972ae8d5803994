"""Features of positions that are ranked by class, within a patch and between patches (after CRII-Net).

Pieces are patches of images: features (B, patches, D, positions), and classes (B, patches, C, positions), one-hot, all 0 where a position
has no class that counts.
"""
from __future__ import annotations

import torch
from torch import Tensor

from losses.ranks import batch_sums


def direction(x: Tensor, axis: int) -> Tensor:
    """x / sqrt(|x|^2 + 1e-6) along an axis: of length 1, and short where x is; the gradient is finite where x is 0."""
    return x / (x.square().sum(axis, keepdim=True) + 1e-6).sqrt()


def centres(features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """((B, patches, C, D) mean direction of each class's features in each patch, of length 1; (B, patches, C) whether it is there)."""
    return direction(torch.einsum("bpcn,bpdn->bpcd", classes, direction(features, 2)), 3), classes.sum(3) > 0


def of_other_patches(means: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """The same of all patches of the batch but each one's own."""
    means, there = means * there[..., None], there.float()
    others = means.sum((0, 1)) - means
    return direction(others, 3), there.sum((0, 1)) - there > 0


def rank_loss(features: Tensor, classes: Tensor, means: Tensor, there: Tensor, margin: float) -> Tensor:
    """Mean of [m - cos(f, own centre) + cos(f, other centre)]_+ over positions and over the other classes that have a centre; a scalar.

    A position whose own class has no centre does not count; where none counts, the loss is 0.
    """
    cosines = torch.einsum("bpcd,bpdn->bpcn", means, direction(features, 2))
    own = (cosines * classes).sum(2, keepdim=True)
    known = there[..., None].float()
    pairs = (classes * known).sum(2, keepdim=True) * (1 - classes) * known
    excess, count = batch_sums(((margin - own + cosines).clamp(min=0) * pairs).sum(), pairs.sum())
    return excess / count.clamp(min=1)
