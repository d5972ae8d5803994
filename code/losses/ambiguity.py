"""Where a prediction is ambiguous, so that agreeing on it teaches most (AC-MT; Xu et al., Medical Image Analysis, 2023)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.overlap import one_hot
from losses.prototypes import mean_features

SLACK = 1e-6
"""By so much a probability may miss a threshold, or the largest (cleanlab)."""


def far_from_prototype(features: Tensor, passes: Tensor, probabilities: Tensor, labels: Tensor, certainty: float) -> Tensor:
    """Where the class of a label is not that of the nearest prototype of its image: (B, 1, *sides) bool.

    A teacher gives all but the labels (B, *sides): features (B, D, ...), which are resized to the sides (linearly); passes
    (n, B, C, *sides), the logits of n predictions, of which it is certain where the deviation of sigmoid(z / 2) is below `certainty`;
    probabilities (B, C, *sides), whose likeliest certain class a position stands for when prototypes are made.
    """
    certain = (passes / 2).sigmoid().std(0) < certainty
    features = F.interpolate(features, size=labels.shape[1:], mode="trilinear" if labels.dim() == 4 else "bilinear")
    centres = prototypes(features, rectified_labels(probabilities, certain), probabilities)
    return (distances(features, centres).argmin(1) != labels).unsqueeze(1)


def rectified_labels(probabilities: Tensor, certain: Tensor) -> Tensor:
    """argmax_c certain_c p_c of (B, C, *sides): (B, *sides). Where no class is certain it is class 0, as in the published code."""
    return (certain * probabilities).argmax(1)


def prototypes(features: Tensor, labels: Tensor, probabilities: Tensor) -> Tensor:
    """sum f [label = c] p_c / (sum [label = c] p_c + 1e-5) of each image and class: (B, C, D).

    features (B, D, *sides), labels (B, *sides), probabilities (B, C, *sides). A class that no position has gets zeros, as published.
    """
    return mean_features(features, one_hot(labels, probabilities.shape[1])[0] * probabilities)


def distances(features: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distance of each position (B, D, *sides) to each of the image's prototypes (B, C, D): (B, C, *sides)."""
    centres = centres.view(*centres.shape, *[1] * (features.dim() - 2))
    return torch.stack([(features - centres[:, c]).square().sum(1) for c in range(centres.shape[1])], 1)


def label_errors(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Which labels are wrong by confident learning (Northcutt et al., JAIR 70, 2021), as cleanlab's rule "both" has it: (N,) bool.

    labels (N,) integers and what another says of them, probabilities (N, C). A label is wrong if, of its class k, it is among the
    N_k - J_kk of lowest p_k, and for another class j among the J_kj of largest p_j - p_k, and k is not the likeliest class.
    J (`confident_joint`) estimates how many positions of each label are truly of each class.
    """
    if labels.device.type == "mps":  # which has no float64
        return label_errors(labels.cpu(), probabilities.cpu()).to(labels.device)
    joint = confident_joint(labels, probabilities)
    own = probabilities.gather(1, labels[:, None])[:, 0]
    wrong = torch.zeros_like(labels, dtype=torch.bool)
    for k, row in enumerate(joint):
        here = (labels == k).nonzero()[:, 0]
        off_diagonal = sum(row) - row[k]
        if not off_diagonal:
            continue
        unlikely, swapped = torch.zeros((2, len(labels)), dtype=torch.bool, device=labels.device)
        unlikely[here[own[here].argsort(stable=True)[:off_diagonal]]] = True
        for j, count in enumerate(row):
            if j != k:
                margin = probabilities[here, j] - own[here]
                swapped[here[margin.argsort(descending=True, stable=True)[:count]]] = True
        wrong |= unlikely & swapped
    return wrong & (own + SLACK < probabilities.amax(1))


def confident_joint(labels: Tensor, probabilities: Tensor) -> list[list[int]]:
    """Positions of label k that are confidently of class j, each row scaled to the number of positions of its label: C x C integers.

    Confidently: p_j is at least the mean of p_j over the positions labelled j; of several such classes the likeliest.
    """
    classes = probabilities.shape[1]
    given = one_hot(labels[None], classes)[0][0].T.double()
    counts = given.sum(0)
    threshold = (given * probabilities).sum(0) / counts  # NaN for a class that is no label: nothing reaches it
    reached = torch.where(probabilities >= threshold - SLACK, probabilities, -1.0)
    best, which = reached.max(1)
    pairs = (labels * classes + which)[best >= 0]
    joint = torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()
    joint.diagonal().clamp_(min=1)
    scaled = joint / joint.sum(1, keepdim=True) * counts[:, None]
    return [rounded(row) for row in scaled.tolist()]


def rounded(row: list[float]) -> list[int]:
    """Integers near these numbers with the same sum (rounded): those that rounding moved most are moved by one the other way."""
    whole = [round(value) for value in row]
    missing = round(sum(row)) - sum(whole)
    sign = 1 if missing > 0 else -1
    order = sorted(range(len(row)), key=lambda k: sign * (row[k] - whole[k]), reverse=True)
    for k in order[: abs(missing)]:
        whole[k] += sign
    return whole
