"""Class prototypes of whole images, and how like them the features of each position are (SCP-Net, AC-MT)."""
from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.overlap import one_hot


def mean_features(features: Tensor, weights: Tensor) -> Tensor:
    """sum w_c f / (sum w_c + 1e-5) of each image and class: (B, C, D), zeros for a class without weight.

    features (B, D, *sides), weights (B, C, *sides), none negative.
    """
    weights = weights.flatten(2)
    return weights @ features.float().flatten(2).transpose(1, 2) / (weights.sum(2, keepdim=True) + 1e-5)


def cosines_to(features: Tensor, prototypes: Tensor) -> Tensor:
    """The cosine of each feature with the prototypes of every image: features (B, D, *sides), prototypes (P, C, D) -> (B, P, C, *sides)."""
    unit = F.normalize(features.float(), dim=1).flatten(2)
    return torch.einsum("bdn,pcd->bpcn", unit, F.normalize(prototypes.float(), dim=2)).unflatten(3, features.shape[2:])


def by_own_and_by_others(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """What an image's own prototypes say of its positions, and what those of all other images say together: (B, C, *sides) each.

    softmax_c S of the own ones; sum e^S / sum_c sum e^S over the images that are not the own one. cosines S (B, B, C, *sides), of at
    least two images.
    """
    itself = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    others = cosines.exp().masked_fill(itself.view(*itself.shape, *[1] * (cosines.dim() - 2)), 0.0).sum(1)
    return cosines.diagonal().movedim(-1, 0).softmax(1), others / others.sum(1, keepdim=True)


def agreement_of_votes(cosines: Tensor) -> Tensor:
    """1 + sum_c v log(v + 1e-6) / ln C, v the share of images whose nearest prototype is of class c: (B, 1, *sides).

    1 where the prototypes of all images, the own one's too, vote for one class; 0 where all classes have as many votes.
    """
    classes = cosines.shape[2]
    votes = one_hot(cosines.argmax(2).flatten(0, 1), classes)[0].unflatten(0, cosines.shape[:2]).mean(1)
    return 1 + (votes * (votes + 1e-6).log()).sum(1, keepdim=True) / log(classes)
