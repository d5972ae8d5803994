"""Disagreement of two networks on the same images. None of these detaches its target: a caller that wants that does it."""
from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def sharpened(logits: Tensor, temperature: float) -> Tensor:
    """p^(1/T) / sum_c p^(1/T) of p = softmax(logits): (B, C, *spatial); 1 leaves p as it is, towards 0 it becomes one-hot."""
    return (logits / temperature).softmax(1)


def softmax_mse(logits: Tensor, target_logits: Tensor) -> Tensor:
    """(softmax a - softmax b)^2, element-wise: (B, C, *spatial)."""
    return (logits.softmax(1) - target_logits.softmax(1)) ** 2


def eased_mse(p: Tensor, target: Tensor) -> Tensor:
    """(p - t)^2 of probabilities, where t is drawn towards p as unsure as it is, element-wise: (B, C, *spatial).

    t' = (1 - u) t + u p with u = -t log(t + 1e-12) of each class, so that the value is (1 - u)^2 (p - t)^2 (inter-uncertainty; Jin et al.,
    Expert Systems with Applications 2024).
    """
    unsure = -target * (target + 1e-12).log()
    return (p - ((1 - unsure) * target + unsure * p)) ** 2


def contested(p: Tensor, target: Tensor) -> Tensor:
    """-sum_c |p - t| log(|p - t| + 1e-12) of probabilities, of each image from 0 to 1: (B, C, *spatial) -> (B, 1, *spatial).

    0 everywhere where p and t do not differ. Gradient flows through the largest and the smallest value too (PG-FANet).
    """
    difference = (p - target).abs()
    found = -(difference * (difference + 1e-12).log()).sum(1, keepdim=True)
    sides = tuple(range(1, found.dim()))
    lowest, highest = found.amin(sides, keepdim=True), found.amax(sides, keepdim=True)
    return (found - lowest) / (highest - lowest).clamp(min=1e-8)


def sigmoid_mse(logits: Tensor, target_logits: Tensor) -> Tensor:
    """(sigmoid a - sigmoid b)^2, element-wise."""
    return (logits.sigmoid() - target_logits.sigmoid()) ** 2


def softmax_kl(logits: Tensor, target_logits: Tensor) -> Tensor:
    """softmax b * (log softmax b - log softmax a), element-wise; its mean is the KL divergence a position divided by C."""
    return target_logits.softmax(1) * (target_logits.log_softmax(1) - logits.log_softmax(1))


def sigmoid_kl(logits: Tensor, target_logits: Tensor) -> Tensor:
    """sigmoid b * (log sigmoid b - log sigmoid a), element-wise."""
    return target_logits.sigmoid() * (logsigmoid(target_logits) - logsigmoid(logits))


def symmetric_kl(first: Tensor, second: Tensor, axis: int = 1) -> Tensor:
    """(KL(q || p) + KL(p || q)) / 2 of p = softmax(first), q = softmax(second) along `axis`, element-wise: (B, C, *spatial).

    Its sum along `axis` is the divergence of a position (R-Drop; Liang et al., NeurIPS 2021, eq. 2).
    """
    p, q = first.log_softmax(axis), second.log_softmax(axis)
    return (p.exp() - q.exp()) * (p - q) / 2


def standardised(logits: Tensor) -> Tensor:
    """(z - mean z) / std z over the classes of each position, with the unbiased deviation; 0 where all classes are alike."""
    return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True).clamp(min=1e-6)


def standardised_mse(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Squared difference of the `standardised` logits, element-wise (DSSN, ACM MM 2023; published without the bound of the deviation)."""
    return (standardised(logits) - standardised(target_logits)) ** 2
