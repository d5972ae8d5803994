"""One class of one image as a vector, and how like it each position of another image is (CISC-R, STI)."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import e
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.overlap import IGNORED
from losses.ranks import batch_sums
from losses.supervised import supervised_loss


def prototype(features: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(B, D): features (B, D, h, w), resized bilinearly to the mask's sides, pooled where the mask (B, H, W) is 1; zeros where it is so
    nowhere.

    pooling: "mean" (CISC-R); "soft", in which a position with large features weighs more, by the sum of their exponentials (STI). Of
    "soft" the length depends on how much of the image the mask covers, as published; a cosine does not see it.
    """
    mask = mask.float().unsqueeze(1)
    seen = F.interpolate(features.float(), size=mask.shape[2:], mode="bilinear") * mask
    covered, area = mask.flatten(1).sum(1, keepdim=True), mask[0].numel()
    if pooling == "mean":
        return seen.flatten(2).sum(2) / (covered + 0.0005)
    largest = seen.detach().amax((1, 2, 3), keepdim=True)  # a factor of all weights, so that none is infinite
    weights = (seen - largest).exp().sum(1, keepdim=True)
    mean = (weights * seen).flatten(2).sum(2) / weights.flatten(2).sum(2)
    return mean * area / (area * covered * e / (covered * e + area - covered) + 1e-4)


def similarity(features: Tensor, vectors: Tensor, sides: torch.Size, pooling: str) -> Tensor:
    """(B, H, W): cosine of each feature (B, D, h, w) with its image's vector (B, D), resized to the sides (H, W), in 0..1.

    "mean": bilinear (CISC-R). "soft": bicubic, and at least 1e-7 away from 0 and 1 (STI).
    """
    soft = pooling == "soft"
    cosine = F.cosine_similarity(features.float(), vectors[:, :, None, None], dim=1, eps=1e-12 if soft else 1e-8)
    large = F.interpolate(cosine.unsqueeze(1), size=sides, mode="bicubic" if soft else "bilinear").squeeze(1)
    return large.clamp(1e-7, 1 - 1e-7) if soft else large.clamp(0, 1)


def similar_to_partners(network: Any, images: Tensor, pairs: Any, pooling: str) -> Tensor:
    """(B, H, W): how like each position of images (B, C, H, W) is to the prototype of their partners (`augmentation.pairs.Pairs`), by the
    network's features."""
    features, partners = network.decode(network.encode(torch.cat([images, pairs.images]))).chunk(2)
    return similarity(features, prototype(partners, pairs.theirs, pooling), images.shape[2:], pooling)


def similarity_errors(similar: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Mean of -[m ln s + (1 - m) ln(1 - s)] over the pixels of a batch that are not ignored, a scalar.

    similar s, mask m, labels: (B, H, W); logarithms are at least -100.
    """
    total, count = batch_sums(*sum_and_count(similar, mask, labels))
    return total / count.clamp(min=1)


def sum_and_count(similar: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What `similarity_errors` divides, of this process's rows."""
    counted = labels != IGNORED
    each = F.binary_cross_entropy(similar, mask.float(), reduction="none")
    return (each * counted).sum(), counted.sum()


def weighted_loss(logits: Tensor, labels: Tensor, mask: Tensor, similar: Tensor) -> Tensor:
    """Mean over all pixels of (1 - |m - s|) times the cross-entropy, which is 0 where a label is 255; mask m, similar s (B, H, W)."""
    each = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    return ((1 - (mask.float() - similar).abs()) * each).mean()


def pairs_loss(network: Any, images: Tensor, labels: Tensor, pairs: Any, options: Any) -> dict[str, Tensor]:
    """The terms of CISC-R's first stage: images (B, C, H, W) and their partners are learned from labels (B, H, W), and each feature map
    must be like the other image's prototype where the pair (`augmentation.pairs.Pairs`) shows its class, and unlike it elsewhere."""
    labels, masks = torch.cat([labels, pairs.labels]), torch.cat([pairs.own, pairs.theirs])
    features = network.decode(network.encode(torch.cat([images, pairs.images])))
    vectors = prototype(features, masks, options.pooling).roll(len(images), 0)
    similar = similarity(features, vectors, labels.shape[1:], options.pooling)
    of_pairs = (x.chunk(2) for x in (network.head(features), similar, masks, labels))
    each = [(supervised_loss(z, y, options.dice), similarity_errors(s, m, y)) for z, s, m, y in zip(*of_pairs)]
    supervised, consistency = (sum(terms) for terms in zip(*each))
    return {"total": supervised + consistency, "supervised": supervised, "consistency": consistency}


@torch.no_grad()
def anchors(seen: Iterable[tuple[Tensor, Tensor]], num_classes: int, pooling: str) -> Tensor:
    """(C, D): mean over images (features (1, D, h, w), label (1, H, W)) of the prototype of each class; one that an image lacks adds
    zeros, and counts."""
    total, images = torch.zeros(()), 0
    for features, labels in seen:
        each = features.new_zeros((num_classes, features.shape[1]), dtype=torch.float32)
        for c in labels.unique().tolist():
            if c < num_classes:
                each[c] = prototype(features, labels == c, pooling)[0]
        total, images = total.to(each.device) + each, images + 1
    return total / images


@torch.no_grad()
def anchor_errors(features: Tensor, labels: Tensor, vectors: Tensor) -> Tensor:
    """(C,): `similarity_errors` of one image with the anchor (C, D) of each class, whose mask is that class in the label. A process may
    call it alone."""
    each = [sum_and_count(similarity(features, vector[None], labels.shape[1:], "mean"), labels == c, labels)
            for c, vector in enumerate(vectors)]
    return torch.stack([total / count.clamp(min=1) for total, count in each])


@torch.no_grad()
def unlike_anchors(seen: Callable[[Any, Any], Iterable[tuple[Tensor, Tensor]]], network: Any, labeled: Any, pseudo: Any, num_classes: int,
                   pooling: str) -> dict[str, list[Any]]:
    """How unlike the anchors of the labelled images all images are: of each labelled one `anchor_errors` of every class, under "labeled";
    of each with a pseudo-label their sum over the classes that it has, under "pseudo".

    seen: gives (image (1, C, H, W), label (1, H, W)) of `labeled` or `pseudo` images, one by one, as the network is handed them.
    """
    def features(images: Any) -> Iterator[tuple[Tensor, Tensor]]:
        return ((network.decode(network.encode(image)), label) for image, label in seen(images, network))

    vectors = anchors(features(labeled), num_classes, pooling)
    sums = [(anchor_errors(*one, vectors) * present(one[1], num_classes)).sum().item() for one in features(pseudo)]
    return {"labeled": [anchor_errors(*one, vectors).tolist() for one in features(labeled)], "pseudo": sums}


def present(labels: Tensor, num_classes: int) -> Tensor:
    """(C,) bool: the classes of a label map."""
    return torch.bincount(labels.flatten(), minlength=256)[:num_classes] > 0
