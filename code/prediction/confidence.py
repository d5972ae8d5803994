"""How sure a prediction is, without a reference: the overlap that the probabilities let expect, entropy, and agreement of networks.

Why the first of these decides the order: on 21 images of NEU-Seg, 59 of a folder of one's own and 40 volumes of Phantom its rank
correlation with the true Dice was 0.78, 0.79 and 0.82; that of the mean entropy, which follows the size of what is found, -0.12, -0.19 and
0.11; of the entropy at borders -0.71, -0.36 and -0.67; of the disagreement -0.37 (student and teacher) and -0.78 (three branches).
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataloaders.description import DataSet, Source
from dataloaders.errors import UserError

PIECE = 2**22
"""Voxels looked at together, so that a large volume needs no second copy of its probabilities."""
PROFILED = 24
"""Labelled training cases that are looked at; a quarter of it where they are volumes."""
APART = 0.5
"""Disagreement from which on an image is flagged."""
SLACK = 2.0
"""A predicted class is unlike training's where its share is above this times the largest there, or below the smallest over this."""


@dataclass(frozen=True)
class Figures:
    """What is known of one prediction, all shares and figures from 0 to 1."""

    shares: tuple[float, ...]
    """Of the voxels, by class, background first."""
    confidence: float
    """The Dice that the probabilities let expect: mean over the predicted classes of 2 sum(p m) / (sum p + sum m), m the mask and p its
    class's probability (soft Dice confidence: Borges et al., arXiv 2402.10665). Nothing found: 1 - the largest probability of a class."""
    entropy: float
    """Mean over the voxels of -sum p log p / log(classes)."""
    border_entropy: float | None
    """The same over voxels with a neighbour of another class; None where there is none."""
    disagreement: float | None
    """1 - Dice between two networks, mean over the classes that either finds and over all pairs; None for a single network."""


def figures(probabilities: Tensor, labels: Tensor, masks: Sequence[Tensor], flat: bool) -> tuple[Figures, Tensor]:
    """The figures of one image, and its entropy (S, H, W) float32.

    Args:
        probabilities: (K, S, H, W), of slices or of a volume.
        labels: (S, H, W) uint8, the mask that is given out.
        masks: of each of the run's networks, like `labels`; fewer than two: no disagreement.
        flat: neighbours are looked for within a slice only.
    """
    if labels.device.type == "mps":  # which has no float64
        probabilities, labels, masks = probabilities.cpu(), labels.cpu(), [mask.cpu() for mask in masks]
    classes = len(probabilities)
    border = borders(labels, flat)
    entropy = torch.empty(labels.shape, device=labels.device)
    summed = torch.zeros(classes, dtype=torch.float64, device=labels.device)
    inside, most = summed.clone(), torch.zeros((), device=labels.device)
    step = max(1, PIECE // max(labels[0].numel(), 1))
    for first in range(0, len(labels), step):
        part, mask = probabilities[:, first : first + step].float(), labels[first : first + step].long()
        entropy[first : first + step] = torch.special.entr(part).sum(0) / math.log(classes)
        summed += part.flatten(1).sum(1, dtype=torch.float64)
        chosen = part.gather(0, mask[None])[0].flatten().double()
        inside += torch.bincount(mask.flatten(), chosen, minlength=classes)
        most = torch.maximum(most, part[1:].max() if classes > 1 else most)
    counts = torch.bincount(labels.flatten().int(), minlength=classes).double()
    found = counts[1:] > 0
    overlaps = 2 * inside[1:][found] / (summed[1:][found] + counts[1:][found])
    told = Figures(
        tuple((counts / counts.sum()).tolist()), float(overlaps.mean()) if found.any() else 1 - float(most),
        float(entropy.mean(dtype=torch.float64)), float(entropy[border].mean(dtype=torch.float64)) if border.any() else None,
        disagreement(masks, classes) if len(masks) > 1 else None)
    return told, entropy


def borders(labels: Tensor, flat: bool) -> Tensor:
    """(S, H, W) bool: whether one of the 4 (flat) or 6 neighbours is of another class."""
    border = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    for axis in (1, 2) if flat else (0, 1, 2):
        length = labels.shape[axis] - 1
        differs = labels.narrow(axis, 1, length) != labels.narrow(axis, 0, length)
        border.narrow(axis, 1, length).logical_or_(differs)
        border.narrow(axis, 0, length).logical_or_(differs)
    return border


def disagreement(masks: Sequence[Tensor], classes: int) -> float:
    """1 - Dice, mean over the classes that one of the two has, then over all pairs; 0 where neither has any."""
    totals = []
    for one, other in combinations(masks, 2):
        cells = torch.bincount(one.flatten().long() * classes + other.flatten().long(), minlength=classes**2)
        counts = cells.view(classes, classes).double()
        both, sizes = counts.diagonal()[1:], (counts.sum(0) + counts.sum(1))[1:]
        found = sizes > 0
        totals.append(1 - float((2 * both[found] / sizes[found]).mean()) if found.any() else 0.0)
    return sum(totals) / len(totals)


def apart(told: Figures) -> list[str]:
    """A flag where the run's networks find different things."""
    return ["networks disagree"] if told.disagreement is not None and told.disagreement > APART else []


def look(pixels: np.ndarray, data: DataSet) -> tuple[float, float]:
    """Mean and deviation of pixels as read, 8-bit ones in shares of 255: what `unlike` compares."""
    values = pixels[..., :: max(1, pixels.shape[-2] // 256), :: max(1, pixels.shape[-1] // 256)].astype(np.float32)
    unit = 255 if data.intensities == "8-bit" else 1
    return float(values.mean(dtype=np.float64)) / unit, float(values.std(dtype=np.float64)) / unit


def profile(source: Source, labeled: Sequence[str]) -> dict[str, Any]:
    """Of some labelled training cases: least and greatest side lengths, mean, deviation, and shares of each class where it is there.

    {"cases": n, "sides": [low, high], "mean": [low, high], "deviation": [low, high], "shares": {class: [low, high]}}; n may be 0.
    """
    wanted = set(labeled)
    cases = [case for case in source.cases("train") if case.name in wanted]
    volumes = source.data.intensities == "stored"
    most = PROFILED // 4 if volumes else PROFILED
    cases = cases[:: max(1, -(-len(cases) // most))]
    sides, looks, shares = list[int](), list[tuple[float, float]](), dict[str, list[float]]()
    for case in cases:
        try:
            pixels, label = source.image(case), source.label(case)
        except UserError:
            continue
        if label is None:
            continue
        sides += [min(label.shape[-2:]), max(label.shape[-2:])]
        looks.append(look(pixels, source.data))
        counts = np.bincount(label.ravel(), minlength=256)[: source.data.num_classes] / label.size
        for name, share in zip(source.data.classes[1:], counts[1:]):
            if share > 0:
                shares.setdefault(name, []).append(float(share))
    if not looks:
        return {"cases": 0}
    means, deviations = zip(*looks)
    return {"cases": len(looks), "sides": _range(sides), "mean": _range(means), "deviation": _range(deviations),
            "shares": {name: _range(values) for name, values in shares.items()}}


def _range(values: Sequence[float]) -> list[float]:
    return [float(min(values)), float(max(values))]


def unlike(known: Mapping[str, Any], shares: Mapping[str, float], size: Sequence[int], seen: tuple[float, float]) -> list[str]:
    """Flags: what of an image and its prediction is unlike the labelled training images, whose `profile` is `known`.

    `shares` of the foreground by class; `size` the last two sides of the pixels as read; `seen` their `look`.
    """
    flags = [] if any(shares.values()) else ["nothing found"]
    if not known.get("cases"):
        return flags
    low, high = known["sides"]
    if min(size) * SLACK < low or max(size) > SLACK * high:
        flags.append("image size unlike training's")
    for value, key in zip(seen, ("mean", "deviation")):
        low, high = known[key]
        slack = max(high - low, 0.2 * max(known["deviation"]))
        if not low - slack <= value <= high + slack:
            flags.append("intensities unlike training's")
            break
    for name, share in shares.items():
        if share and name in known["shares"]:
            low, high = known["shares"][name]
            if share > SLACK * high:
                flags.append(f"{name} larger than in training")
            elif share * SLACK < low:
                flags.append(f"{name} smaller than in training")
    return flags
