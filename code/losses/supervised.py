"""The supervised term that nearly all methods share; and weights of labels by what a step of training that counts them would do for clean
ones (MLB-Seg; Wei et al., MICCAI 2023)."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad

from losses.overlap import IGNORED, cross_entropy, dice_loss, flat_dice_loss, halved_dice_loss, sample_dice_loss, unsquared_dice_loss
from losses.ranks import batch_mean, batch_sum, batch_sums, world

DICE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": dice_loss, "foreground": partial(dice_loss, foreground_only=True), "linear": unsquared_dice_loss,
    "smooth": partial(dice_loss, smooth=1e-4), "batch": partial(dice_loss, smooth=1e-10), "sample": sample_dice_loss,
    "halved": halved_dice_loss, "flat": flat_dice_loss,
}
"""The published forms of the Dice loss: SSL4MIS; UA-MT on LA (class 0 left out); simEps; CrossMatch on ACDC; BCP on ACDC, and on LA;
SCP-Net; PG-FANet."""


def supervised_loss(logits: Tensor, labels: Tensor, dice: str = "squared") -> Tensor:
    """(cross-entropy + Dice) / 2 of logits (B, C, *spatial) and labels (B, *spatial); a scalar.

    Label 255 is ignored; with no counted pixel the loss is 0. `dice` is a name in `DICE`, or "none": the cross-entropy alone.
    """
    loss = cross_entropy(logits, labels)
    if dice != "none":
        loss = (loss + DICE[dice](logits, labels)) / 2
    return loss * (batch_sum((labels != 255).sum()) > 0)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0, class_weight: Tensor | None = None) -> Tensor:
    """Mean over counted pixels of -(1 - p)^gamma ln p, p = softmax(logits)[label]: what is known well counts little.

    logits (B, C, *spatial), labels (B, *spatial), 255 is ignored; `class_weight` (C,) multiplies the pixels of a class. No gradient goes
    through (1 - p), in the form of SSL4MIS; in the paper's it does (Lin et al., ICCV 2017).
    """
    counted = labels != IGNORED
    errors = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    errors = errors * (1 - (-errors.detach()).exp()) ** gamma
    if class_weight is not None:
        errors = errors * class_weight[labels * counted]
    total, count = batch_sums(errors.sum(), counted.sum())
    return total / count.clamp(min=1)


def ohem_cross_entropy(logits: Tensor, labels: Tensor, min_kept: int = 100000, threshold: float = 0.7) -> Tensor:
    """Mean cross-entropy of the pixels whose class is known with a probability of `threshold` at most, or of the `min_kept` worst known.

    logits (B, C, *spatial), labels (B, *spatial), 255 is ignored; where fewer are counted than `min_kept`, all are. Of several processes
    each ranks its own pixels (Shrivastava et al., CVPR 2016, in the form of UniMatch and DSSN).
    """
    counted = labels != IGNORED
    errors = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    with torch.no_grad():
        known = torch.where(counted, logits.softmax(1).gather(1, (labels * counted).unsqueeze(1)).squeeze(1), 1.0)
        kept = counted
        if min_kept > 0:
            limit = smallest(known.flatten(), min(min_kept, known.numel())).clamp(min=threshold)
            kept = counted & ((known <= limit) | (counted.sum() < min_kept))
        elif min_kept == 0:
            kept = counted & (known <= threshold)
    total, count = batch_sums((errors * kept).sum(), kept.sum())
    return total / count.clamp(min=1)


def smallest(x: Tensor, k: int) -> Tensor:
    """The k-th smallest of x (n,), k from 1. By sorting on a GPU, whose kthvalue has no fixed order among equals."""
    return x.kthvalue(k).values if x.device.type == "cpu" else x.sort().values[k - 1]


def labels_loss(logits: Tensor, labels: Tensor, dice: str = "squared", min_kept: int = 0) -> Tensor:
    """`supervised_loss`, or, where a least number of pixels is given, `ohem_cross_entropy` of so many in the batch of all processes."""
    return ohem_cross_entropy(logits, labels, min_kept // world()) if min_kept else supervised_loss(logits, labels, dice)


def label_costs(logits: Tensor, *kinds: Tensor) -> Tensor:
    """-ln p of several kinds of labels (B, *spatial) at each position: (B, kinds, *spatial); 0 where a label is ignored."""
    return torch.stack([F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none") for labels in kinds], 1)


def meta_gradient(cost: Tensor, others: Tensor, parameters: Sequence[Tensor], step: Callable[[Sequence[Tensor]], Sequence[Tensor]],
                  rate: float, clean_loss: Callable[[Sequence[Tensor]], Tensor]) -> tuple[Tensor, Tensor]:
    """d clean_loss / d e at e = 0 after one step of SGD along the gradient of sum e * cost + others: as `cost`; and clean_loss there.

    cost (any shape), others (a scalar) and their graph, which is kept; step: gradients -> the parameters after a step of this `rate`. A
    change of e moves these by -rate times the gradient of its cost, so the result is -rate times the derivative of cost along the gradient
    of clean_loss: a second derivative of the network, in memory of one pass, and the same for several processes as for one.
    """
    slopes = grad(others, parameters, retain_graph=True, materialize_grads=True)
    with torch.no_grad():
        ahead = [parameter.detach().requires_grad_() for parameter in step([batch_mean(slope) for slope in slopes])]
    loss = clean_loss(ahead)
    along = [batch_mean(slope) for slope in grad(loss, ahead, materialize_grads=True)]
    shares = torch.zeros_like(cost, requires_grad=True)
    pulled = grad(cost, parameters, shares, create_graph=True, materialize_grads=True)
    return -rate * grad(pulled, shares, along, retain_graph=True)[0], loss.detach()


def helpful(gradient: Tensor) -> Tensor:
    """max(-g, 0) / (sum max(-g, 0) + 1e-10), the sum over the costs of all processes: together 1, or 0 where no cost helps."""
    weights = (-gradient).clamp(min=0)
    return weights / (batch_sum(weights.sum()) + 1e-10)
