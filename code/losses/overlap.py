"""Dice losses, each as its published code has it. `ignored` pixels (label 255) count nowhere."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.ranks import batch_sums

IGNORED = 255


def one_hot(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(B, *spatial) integers -> ((B, C, *spatial) float32, all 0 where ignored; (B, 1, *spatial) mask of counted pixels).

    Built by comparison: scatter and F.one_hot have no cheap deterministic form on a GPU.
    """
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, *[1] * (labels.dim() - 1))
    labels = labels.unsqueeze(1)
    return (labels == classes).float(), (labels != IGNORED).float()


def dice_per_class(probabilities: Tensor, labels: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - (2 sum p y + s) / (sum p^2 + sum y^2 + s) of each class, sums over batch and space together; shape (C,)."""
    target, counted = one_hot(labels, probabilities.shape[1])
    probabilities = probabilities * counted
    space = [0, *range(2, probabilities.dim())]
    overlap, total = batch_sums((probabilities * target).sum(space), (probabilities**2).sum(space) + target.sum(space))
    return 1 - (2 * overlap + smooth) / (total + smooth)


def dice_loss(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, foreground_only: bool = False,
              smooth: float = 1e-5) -> Tensor:
    """Soft Dice with squared denominators, mean over all classes, background included (SSL4MIS).

    logits (B, C, *spatial), labels (B, *spatial). `class_weight` (C,) multiplies the classes' losses (the divisor stays C);
    `foreground_only` leaves class 0 out (UA-MT on LA).
    """
    losses = dice_per_class(logits.softmax(1), labels, smooth)
    if class_weight is not None:
        losses = losses * class_weight
    return losses[1:].mean() if foreground_only else losses.mean()


def masked_dice(probabilities: Tensor, target: Tensor, mask: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - (2 sum m p y + s) / (sum m p^2 + sum m y^2 + s), sums over batch and space, mean over classes; 0 where the mask is empty.

    probabilities and target (B, C, H, W), the target one-hot or not; mask (B, 1, H, W).
    """
    overlap, total = batch_sums((mask * probabilities * target).sum((0, 2, 3)), (mask * (probabilities**2 + target**2)).sum((0, 2, 3)))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def pixel_weighted_dice(logits: Tensor, labels: Tensor, weights: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - (2 sum q p y + s) / (sum q p^2 + sum q y^2 + s) of each foreground class, sums over batch and space; mean over them (DeSCO).

    logits (B, C, *spatial), labels (B, *spatial), weights q (B, *spatial).
    """
    target, counted = one_hot(labels, logits.shape[1])
    p, q = logits.softmax(1), weights.unsqueeze(1) * counted
    space = [0, *range(2, p.dim())]
    overlap, total = batch_sums((q * p * target).sum(space), (q * (p**2 + target)).sum(space))
    return (1 - (2 * overlap + smooth) / (total + smooth))[1:].mean()


def pixel_weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, smooth: float = 1e-5) -> Tensor:
    """(2 sum -q log softmax(z)[y] + s) / (2 sum q + s) of each sample, mean over samples (DeSCO); 1 where a sample has no weight.

    logits (B, C, *spatial), labels (B, *spatial), weights q (B, *spatial); ignored pixels weigh nothing.
    """
    errors = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    q = weights * (labels != IGNORED)
    summed, mass = (x.flatten(1).sum(1) for x in (q * errors, q))
    return ((2 * summed + smooth) / (2 * mass + smooth)).mean()


def plain_dice(first: Tensor, second: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - (2 sum pq + s) / (sum p + sum q + s) of two maps of equal shape, over all their elements; a scalar."""
    overlap, total = batch_sums((first * second).sum(), first.sum() + second.sum())
    return 1 - (2 * overlap + smooth) / (total + smooth)


def plain_foreground_dice(logits: Tensor, labels: Tensor, smooth: float = 1e-5) -> Tensor:
    """`plain_dice` between each foreground class of softmax(logits) and the labels, mean over these classes (CAML)."""
    target, counted = one_hot(labels, logits.shape[1])
    p = logits.softmax(1) * counted
    return torch.stack([plain_dice(p[:, c], target[:, c], smooth) for c in range(1, p.shape[1])]).mean()


def softmax_dice(first: Tensor, second: Tensor) -> Tensor:
    """`plain_dice` between the softmaxes of two networks' logits, mean over classes; gradients flow to both."""
    p, q = first.softmax(1), second.softmax(1)
    return torch.stack([plain_dice(p[:, c], q[:, c]) for c in range(p.shape[1])]).mean()


def unsquared_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean_c 2 sum p y / (sum (p + y) + 1e-7), sums over batch and space (simEps).

    Unsquared, with the constant below the line only: a class that is absent from the labels adds 1/C.
    """
    target, counted = one_hot(labels, logits.shape[1])
    probabilities = logits.softmax(1) * counted
    space = [0, *range(2, logits.dim())]
    overlap, total = batch_sums((probabilities * target).sum(space), (probabilities + target).sum(space))
    return 1 - (2 * overlap / (total + 1e-7)).mean()


def flat_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - (2 sum p y + 1) / (sum p + sum y + 1), one sum over classes, batch and space (PG-FANet)."""
    target, counted = one_hot(labels, logits.shape[1])
    return plain_dice(logits.softmax(1) * counted, target, 1.0)


def halved_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean_c sum p y / (sum (p^2 + y^2) + 1e-10), sums over batch and space: a perfect match costs 1/2, an absent class 1 (SCP-Net)."""
    target, counted = one_hot(labels, logits.shape[1])
    probabilities = logits.softmax(1) * counted
    space = [0, *range(2, logits.dim())]
    overlap, total = batch_sums((probabilities * target).sum(space), (probabilities**2 + target**2).sum(space))
    return 1 - (overlap / (total + 1e-10)).mean()


def sample_dice_loss(logits: Tensor, labels: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - (2 sum p y + s) / (sum (p + y) + s) of each class of each sample, sums over its space; mean over classes and samples (BCP on LA).

    A sample all of whose pixels are ignored does not count.
    """
    target, counted = one_hot(labels, logits.shape[1])
    probabilities = logits.softmax(1) * counted
    space = tuple(range(2, logits.dim()))
    overlap, total = (probabilities * target).sum(space), (probabilities + target).sum(space)
    each, there = (1 - (2 * overlap + smooth) / (total + smooth)).mean(1), counted.flatten(1).amax(1)
    summed, samples = batch_sums((each * there).sum(), there.sum())
    return summed / samples.clamp(min=1)


def summed_errors(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum -v[y] log softmax(logits)[y] over pixels that are not ignored, v the classes' weights (C,) or 1; a scalar.

    On a GPU a map is summed: CUDA's own sum has no fixed order, and --deterministic 2 refuses it. Gradients are the same to the bit.
    """
    if logits.device.type == "cpu":
        return F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="sum")
    return F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="none").sum()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over counted pixels of -log softmax(logits)[label]; 0 where every pixel is ignored."""
    summed, counted = batch_sums(summed_errors(logits, labels.long()), (labels != IGNORED).sum())
    return summed / counted.clamp(min=1)
