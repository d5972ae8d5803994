"""Features of positions contrasted by class: ranked within patches and between them (after CRII-Net), and few hard positions of each class
against positions of the others (ReCo; Liu et al., ICLR 2022).

Ranked are pieces, patches of images: features (B, patches, D, positions), and classes (B, patches, C, positions), one-hot, all 0 where a
position has no class that counts.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.overlap import one_hot
from losses.ranks import batch_sums

SMALLEST = 1e-8
"""What the length of a vector is raised to where few hard positions are contrasted."""


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


def regions(labels: Tensor, probabilities: Tensor, hard_below: float) -> tuple[Tensor, Tensor]:
    """(positions of each class, those of them where its probability is below `hard_below`), (C, M) bool each.

    labels (B, *sides), 255 is of no class; probabilities (B, C, *sides); the M positions in the order of memory.
    """
    valid = one_hot(labels, probabilities.shape[1])[0].movedim(1, 0).flatten(1) > 0
    return valid, valid & (probabilities.movedim(1, 0).flatten(1) < hard_below)


def mean_of_class(features: Tensor, valid: Tensor) -> Tensor:
    """The mean feature of each class, (C, D), NaN of a class without positions; features (M, D), valid (C, M)."""
    return valid.float() @ features.float() / valid.sum(1, keepdim=True)


def likeness(centres: Tensor, present: Tensor, temperature: float) -> Tensor:
    """softmax over the other classes k that are present of cos(m_c, m_k) / T: (C, C), rows c; centres (C, D), present (C,) bool."""
    cosines = F.cosine_similarity(centres.unsqueeze(1), centres.unsqueeze(0), dim=2, eps=SMALLEST)
    others = present & ~torch.eye(len(present), dtype=torch.bool, device=present.device)
    return (cosines / temperature).masked_fill(~others, -torch.inf).softmax(1)


def one_of(positions: Tensor, classes: Tensor) -> Tensor:
    """For each of `classes` (any shape) a position of that class, drawn with replacement; positions (C, M) bool."""
    places, counts = positions.nonzero()[:, 1], positions.sum(1)
    first = counts.cumsum(0) - counts
    share = torch.rand(classes.shape, dtype=torch.float32 if classes.device.type == "mps" else torch.float64, device=classes.device)
    return places[first[classes] + (share * counts[classes]).long()]


def drawn(valid: Tensor, hard: Tensor, likely: Tensor, queries: int, negatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """(classes (A,), `queries` hard positions of each (A, Q), `negatives` positions of other classes for each of those (A, Q, N)).

    Classes are those that have hard positions. A negative's class is drawn by `likely` (C, C), its position from all of that class.
    """
    classes = hard.any(1).nonzero()[:, 0]
    others = torch.multinomial(likely[classes], queries * negatives, replacement=True).view(-1, queries, negatives)
    return classes, one_of(hard, classes.unsqueeze(1).expand(-1, queries)), one_of(valid, others)


def regional_contrast(features: Tensor, project: Callable[[Tensor], Tensor], valid: Tensor, hard: Tensor, temperature: float = 0.5,
                      queries: int = 256, negatives: int = 256) -> Tensor:
    """The mean over classes of -log(e^(cos(z, m) / T) / (e^(cos(z, m) / T) + sum_n e^(cos(z, z_n) / T))), a scalar.

    z: queries, hard positions of a class; m: the class's mean vector; z_n: positions of other classes (`drawn`). Gradient reaches z alone.
    A class that has positions and no hard one counts as 0; with one class alone the loss is 0. features (M, D); `project` is linear,
    (n, D) -> (n, F), so that the mean of projections is the projection of the mean and few positions need be projected.
    """
    present = valid.any(1)
    if present.sum() < 2 or not hard.any():
        return features.new_zeros(())
    with torch.no_grad():
        centres = project(mean_of_class(features, valid))
        classes, at, against = drawn(valid, hard, likeness(centres, present, temperature), queries, negatives)
        keys = F.normalize(project(features[against]), dim=-1, eps=SMALLEST)
        own = F.normalize(centres[classes], dim=-1, eps=SMALLEST)
    z = F.normalize(project(features[at]), dim=-1, eps=SMALLEST)
    cosines = torch.cat([torch.einsum("aqf,af->aq", z, own).unsqueeze(2), torch.einsum("aqf,aqnf->aqn", z, keys)], dim=2)
    return -(cosines / temperature).log_softmax(2)[..., 0].mean(1).sum() / present.sum()
