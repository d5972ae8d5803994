"""Evidential classifiers (Sensoy et al., NeurIPS 2018): logits are evidence for each class, a Dirichlet distribution at each position."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.overlap import one_hot
from losses.ranks import batch_sums


def dirichlet(logits: Tensor) -> Tensor:
    """a = softplus(z) + 1 of each class: (B, C, *spatial). softmax(ln a) is the expected probability."""
    return F.softplus(logits) + 1


def vacuity(alpha: Tensor) -> Tensor:
    """C / sum_c a: (B, *spatial), 1 without any evidence, towards 0 with much."""
    return alpha.shape[1] / alpha.sum(1)


def expected_cross_entropy(alpha: Tensor, labels: Tensor) -> Tensor:
    """Mean over counted positions of psi(sum_c a_c) - psi(a_y): what cross-entropy is expected to be under the Dirichlet distribution."""
    target, counted = one_hot(labels, alpha.shape[1])
    errors = (target * (torch.digamma(alpha.sum(1, keepdim=True)) - torch.digamma(alpha))).sum()
    errors, count = batch_sums(errors, counted.sum())
    return errors / count.clamp(min=1)


def misleading_evidence(alpha: Tensor, labels: Tensor) -> Tensor:
    """Mean over counted positions of KL(Dir(a') || Dir(1)), a' = a but 1 for the label's class: 0 without evidence for other classes."""
    target, counted = one_hot(labels, alpha.shape[1])
    others = target + (1 - target) * alpha
    total = others.sum(1, keepdim=True)
    divergence = (torch.lgamma(total.squeeze(1)) - math.lgamma(alpha.shape[1]) - torch.lgamma(others).sum(1)
                  + ((others - 1) * (torch.digamma(others) - torch.digamma(total))).sum(1))
    errors, count = batch_sums((divergence * counted.squeeze(1)).sum(), counted.sum())
    return errors / count.clamp(min=1)


def weighted_by_position(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over all positions of w * cross-entropy, w (B, *spatial)."""
    errors = F.cross_entropy(logits, labels, reduction="none")
    total, count = batch_sums((weights * errors).sum(), weights.new_full((), weights.numel()))
    return total / count
