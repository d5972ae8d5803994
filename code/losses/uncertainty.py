"""How unsure a prediction is: at each position, and within single objects of a label map."""
from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def entropy_map(probabilities: Tensor) -> Tensor:
    """-sum_c p log(p + 1e-6), natural logarithm: (B, C, *spatial) -> (B, 1, *spatial), at most ln C.

    The constant keeps the gradient finite where p is 0, and makes the entropy of a sure prediction slightly negative, down to
    -1e-6 (SSL4MIS).
    """
    return -(probabilities * (probabilities + 1e-6).log()).sum(1, keepdim=True)


def entropy_bits(probabilities: Tensor) -> Tensor:
    """-sum_c p log2(p + 1e-10), in bits: (B, C, *spatial) -> (B, 1, *spatial) (AD-MT)."""
    return -(probabilities * (probabilities + 1e-10).log2()).sum(1, keepdim=True)


def instances_of(labels: Tensor, of_class: int = 1) -> tuple[Tensor, Tensor]:
    """The connected components of a class in label maps (B, *sides): their numbers from 1 in raster order, 0 elsewhere, and how many there
    are in each map, (B,). What touches at a corner is connected. They are found on the host."""
    everywhere = np.ones((3,) * (labels.dim() - 1))
    found = [ndimage.label(one == of_class, everywhere) for one in labels.cpu().numpy()]
    numbers = torch.from_numpy(np.stack([components for components, _ in found])).to(labels.device, torch.int64)
    return numbers, torch.tensor([count for _, count in found], device=labels.device)


def instance_variance(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How differently an object's own positions are predicted, a scalar (PG-FANet).

    The sum over classes of the variance (unbiased) of p (B, C, *sides) within each component of class 1 of the labels (B, *sides); the mean
    over the components of a map, of which those of one pixel add nothing and count; the mean over maps, 0 for one without any.
    """
    numbers, counts = instances_of(labels)
    most = int(counts.max()) + 1
    rows = torch.arange(len(labels), device=labels.device).view(-1, *[1] * (labels.dim() - 1))
    place = (rows * most + numbers).flatten()
    p = probabilities.movedim(1, -1).flatten(0, -2)
    sizes = p.new_zeros(len(labels) * most).index_add(0, place, p.new_ones(len(p)))
    means = p.new_zeros(len(sizes), p.shape[1]).index_add(0, place, p) / sizes.clamp(min=1).unsqueeze(1)
    squares = p.new_zeros(len(sizes)).index_add(0, place, ((p - means[place]) ** 2).sum(1))
    variances = (squares / (sizes - 1).clamp(min=1)).view(len(labels), most)[:, 1:]
    return (variances.sum(1) / (counts + 1e-8)).mean()
