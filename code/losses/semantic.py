"""Semantic similarity: affinity inside an image, class prototypes across images (SemSim, Xie et al., arXiv 2410.13486).

A reconstruction: there is no public code, and what the paper leaves open is decided here (docs/methods/semsim.md). Maps are
(B, ..., H, W); everything is computed in float32, whatever comes in, since sums over thousands of positions decide.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.overlap import one_hot

ABSENT = -1e4
"""In place of minus infinity: e^-10000 is 0 in float32, and 0 * -10000 is 0, not NaN."""
SMALLEST = 1e-6
"""Least cosine inside a logarithm."""


def affinity(features: Tensor, temperature: float = 1.0) -> Tensor:
    """M (eq. 4): (B, D, H, W) -> (B, HW, HW), softmax over the source (axis 1) of the cosines of any two positions."""
    unit = F.normalize(features.float().flatten(2), dim=1)
    return (unit.transpose(1, 2) @ unit / temperature).softmax(1)


def propagate(maps: Tensor, features: Tensor, temperature: float = 1.0, factor: float = 0.5) -> Tensor:
    """factor * (P + P M) (eq. 5): maps (B, C, H, W) and the affinity of features (B, D, H, W); with 1/2 probabilities stay such."""
    maps = maps.float()
    spread = maps.flatten(2) @ affinity(features, temperature)
    return factor * (maps + spread.view_as(maps))


def in_regions(x: Tensor, regions: int) -> Tensor:
    """(B, C, H, W) -> (B, C, regions, H / regions, regions, W / regions); the number must divide both sides."""
    return x.unflatten(3, (regions, -1)).unflatten(2, (regions, -1))


def local_prototypes(features: Tensor, labels: Tensor, num_classes: int, regions: int) -> tuple[Tensor, Tensor]:
    """G (eq. 7): the mean feature of each class in each region of each labelled image, and which classes an image has.

    features (B, D, h, w); labels (B, H, W), H and W multiples of h and w, 255 ignored -> prototypes (B, num_classes, regions, regions, D)
    and (B, num_classes) bool.
    A class that a region lacks has its mean over the whole image there, one that the image lacks zeros.
    """
    counted = in_regions(one_hot(middles(labels, features.shape[2:]), num_classes)[0], regions)
    sums = torch.einsum("bcnymx,bdnymx->bcnmd", counted, in_regions(features.float(), regions))
    counts = counted.sum((3, 5)).unsqueeze(-1)
    whole_sums, whole_counts = sums.sum((2, 3), keepdim=True), counts.sum((2, 3), keepdim=True)
    prototypes = torch.where(counts > 0, sums / counts.clamp(min=1), whole_sums / whole_counts.clamp(min=1))
    return prototypes, whole_counts[:, :, 0, 0, 0] > 0


def similarities(features: Tensor, prototypes: Tensor) -> Tensor:
    """m (eq. 8): the cosine of each feature with every prototype of its region.

    features (U, D, H, W), prototypes (L, C, regions, regions, D) -> (U, L, C, H, W).
    """
    unit = in_regions(F.normalize(features.float(), dim=1), prototypes.shape[2])
    cosines = torch.einsum("udnymx,lcnmd->ulcnymx", unit, F.normalize(prototypes, dim=-1))
    return cosines.flatten(5).flatten(3, 4)


def queried(cosines: Tensor, present: Tensor, temperature: float = 1.0) -> Tensor:
    """ln p_cr (eq. 9): p(c) = sum_j e^(m(j,c)/T) / sum_c sum_j e^(m(j,c)/T), j over the labelled images that have class c.

    cosines (U, L, C, H, W), present (L, C) -> (U, C, H, W). A class that none has gets the probability 0.
    """
    here = present[None, :, :, None, None]
    return torch.where(here, cosines / temperature, ABSENT).logsumexp(1).log_softmax(1)


@torch.no_grad()
def agreement(cosines: Tensor, present: Tensor, sharpness: float, form: str = "softmax") -> Tensor:
    """mean_j exp(-r U(j)) (eq. 10 to 13): near 1 where the labelled images say the same of a position; (U, L, C, H, W) -> (U, 1, H, W).

    U(j) = sum_c m(j,c) ln(m(j,c) / mean_j m(j,c)), c over the classes of image j, means over the images that have the class. "softmax":
    both are made distributions over the classes of image j first, so that U is a divergence. "cosine": as printed; to be finite,
    cosines are at least 1e-6 and U at least 0.
    """
    here = present[None, :, :, None, None]
    if form == "cosine":
        cosines = cosines.clamp(min=SMALLEST)
    mean = (cosines * here).sum(1, keepdim=True) / here.sum(1, keepdim=True).clamp(min=1)
    if form == "cosine":
        differences = torch.where(here, cosines * (cosines / mean.clamp(min=SMALLEST)).log(), 0.0)
    else:
        own, shared = (torch.where(here, x, ABSENT).log_softmax(2) for x in (cosines, mean))
        differences = own.exp() * (own - shared)
    return (-sharpness * differences.sum(2).clamp(min=0)).exp().mean(1, keepdim=True)


def middles(x: Tensor, sides: torch.Size) -> Tensor:
    """(..., H, W) at the positions of a smaller grid (h, w) that H and W are multiples of: the middle of what each covers."""
    step = x.shape[-1] // sides[-1]
    return x[..., step // 2 :: step, step // 2 :: step]


def cut_mixed(x: Tensor, box: Tensor, partner: Tensor) -> Tensor:
    """(B, C, h, w) with row `partner[b]` in the box of row b; box (B, 1, H, W) bool, H and W multiples of h and w; partner (B,)."""
    return torch.where(middles(box, x.shape[2:]), x[partner], x)


def taught(target: Tensor, deciding: Tensor, view: tuple[Tensor, Tensor, Tensor], threshold: float, form: str) -> tuple[Tensor, Tensor]:
    """(what a weak view teaches a strong one, where that counts), both cut and mixed as the strong view is (`mixed_view`).

    target (B, C, h, w): what is taught ("soft"), or its likeliest class, one-hot ("hard"). deciding (B, C, *sides): probabilities whose
    largest must reach the threshold, resized to h x w where they have other sides; the mask is (B, 1, h, w) bool.
    """
    if deciding.shape != target.shape:
        deciding = F.interpolate(deciding, size=target.shape[2:], mode="bilinear")
    sure = cut_mixed(deciding.amax(1, keepdim=True), *view[1:]) >= threshold
    return cut_mixed(one_hot(target.argmax(1), target.shape[1])[0] if form == "hard" else target, *view[1:]), sure


def rectified(logits: Tensor, features: Tensor, on: str, temperature: float, factor: float) -> Tensor:
    """p_in (eq. 5 and 6): predictions on the grid of the features, shared by positions with similar features; (B, C, h, w).

    on: "probabilities" are shared, or "logits" before their softmax. Their sum over classes is 2 * `factor` on probabilities, 1 on logits.
    """
    small = F.interpolate(logits.softmax(1) if on == "probabilities" else logits, size=features.shape[2:], mode="bilinear")
    shared = propagate(small, features, temperature, factor)
    return shared if on == "probabilities" else shared.softmax(1)
