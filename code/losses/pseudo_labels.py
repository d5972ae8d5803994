"""Hard pseudo-labels with a threshold, and learning from what a pixel is not (FixMatch and its variants)."""
from __future__ import annotations

from collections.abc import Iterable
from math import log

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.overlap import IGNORED, cross_entropy, masked_dice, one_hot
from losses.ranks import batch_mean, batch_sums
from losses.supervised import DICE, supervised_loss
from metrics.components import largest_component
from metrics.overlap import confusion_matrix, stpp_miou


def hard_labels(logits: Tensor, confidence: float, unsure: str = "ignore") -> Tensor:
    """(B, *spatial) likeliest classes; where the prediction is not sure 255, which is ignored, or the background.

    ignore: where max p < `confidence` (Sohn et al., NeurIPS 2020). background: where `relative_confidence` is above `confidence` for no
    class (SSL4MIS's FixMatch; the likeliest class has the largest, so it is the one that passes if any does).
    """
    top, labels = logits.softmax(1).max(1)
    if unsure == "background":
        return labels * (relative_confidence(logits).amax(1) > confidence)
    return labels.masked_fill(top < confidence, IGNORED)


def likeliest(logits: Tensor, largest_component_only: bool = False) -> Tensor:
    """(B, *spatial) likeliest classes, without gradient; of each foreground class of an image its largest connected component alone, if
    asked for (BCP). Components are found on the host, and those that touch at a corner are one."""
    labels = logits.detach().argmax(1)
    if not largest_component_only:
        return labels
    kept = [largest_component(one) for one in labels.to(torch.uint8).cpu().numpy()]
    return torch.from_numpy(np.stack(kept)).to(labels.device, torch.int64)


def stability(maps: Iterable[np.ndarray], num_classes: int) -> float:
    """Mean over label maps of equal shape of their mean IoU with the last, over the classes that either has (ST++); 1 for one alone."""
    *early, last = maps
    each = [stpp_miou(confusion_matrix(one, last, num_classes, ignored=None))[1] for one in early]
    return sum(each) / len(each) if each else 1.0


def relative_confidence(logits: Tensor) -> Tensor:
    """(p - min_c p) / max_c p of each class, (B, C, *spatial); in [0, 1)."""
    p = logits.softmax(1)
    return (p - p.amin(1, keepdim=True)) / p.amax(1, keepdim=True)


def sure_cross_entropy(logits: Tensor, target_logits: Tensor, inside: Tensor, confidence: float) -> Tensor:
    """Cross-entropy against the target's likeliest class where its max p >= `confidence`, divided by the number of all positions inside.

    logits, target_logits (B, C, *sides); inside (B, *sides), above 0 where an image has pixels (UniMatch, CVPR 2023).
    """
    top, labels = target_logits.softmax(1).max(1)
    return kept_cross_entropy(logits, labels, top >= confidence, inside)


def kept_cross_entropy(logits: Tensor, labels: Tensor, kept: Tensor, inside: Tensor) -> Tensor:
    """Cross-entropy of the positions that are kept and inside, divided by the number of all positions inside.

    logits (B, C, *sides), labels (B, *sides), kept (B, *sides) bool, inside (B, *sides), above 0 where an image has pixels.
    """
    counted = inside > 0
    total, count = batch_sums((F.cross_entropy(logits, labels, reduction="none") * (counted & kept)).sum(), counted.sum())
    return total / count.clamp(min=1)


def class_aware(logits: Tensor, least: float = 0.92, share: float = 0.96) -> Tensor:
    """(B, *sides) bool: where some class has more than `share` of the largest probability m that it reaches in the image.

    A class whose m is not above `least` keeps nothing (DSSN, ACM MM 2023).
    """
    p = logits.softmax(1)
    largest = p.flatten(2).amax(2).view(*p.shape[:2], *[1] * (p.dim() - 2))
    return (p > torch.where(largest > least, share * largest, largest)).any(1)


def sure_dice(logits: Tensor, target_logits: Tensor, inside: Tensor, confidence: float) -> Tensor:
    """`masked_dice` against the target's likeliest class where its max p >= `confidence`; 0 where it is so nowhere.

    `inside` has no say: corners that a rotation leaves empty count, as published (UniMatch's medical branch).
    """
    top, labels = target_logits.softmax(1).max(1)
    return masked_dice(logits.softmax(1), one_hot(labels, logits.shape[1])[0], (top >= confidence).unsqueeze(1))


def damped_loss(logits: Tensor, labels: Tensor, divergence: Tensor, dice: str = "squared", by: str = "mean") -> Tensor:
    """`supervised_loss` of pseudo-labels (B, *sides), the less the more two predictions of a position diverge by V (B, *sides).

    by: "mean" multiplies the loss by the mean of e^-V (UCC and UAPS, as simEps's authors have them); "pixel" each position's cross-entropy
    by its own e^-V, and the Dice by nothing. V is not detached.
    """
    sureness = (-divergence).exp()
    if by == "mean":
        return supervised_loss(logits, labels, dice) * batch_mean(sureness.mean())
    errors = batch_mean((F.cross_entropy(logits, labels, reduction="none") * sureness).mean())
    return errors if dice == "none" else (errors + DICE[dice](logits, labels)) / 2


def concentration(logits: Tensor) -> Tensor:
    """1 - H / ln(positions), H the entropy of where in an image a class lies; mean over images and classes, a scalar.

    0 where every class is everywhere alike, 1 where each lies in one pixel.
    """
    where = logits.log_softmax(1).flatten(2).log_softmax(2)
    return batch_mean((1 + (where.exp() * where).sum(2) / log(where.shape[2])).mean())


def complementary_loss(logits: Tensor, target_logits: Tensor) -> Tensor:
    """A * CE(1 - softmax a, argmin_c softmax b), a scalar: what is least likely in b shall not be found in a (CLS, arXiv 2202.08502).

    A = `concentration` of a, with gradient; 1 - softmax a is used as logits (as SSL4MIS has it).
    """
    return concentration(logits) * cross_entropy(1 - logits.softmax(1), target_logits.softmax(1).argmin(1))
