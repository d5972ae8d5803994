"""Scores of a batch of label maps on the device that holds them, with the definitions of `metrics.surface`.

Distances come from an exact squared Euclidean distance transform: along each axis in turn, every voxel takes the minimum over its
line of the value there plus the squared way (Felzenszwalb & Huttenlocher, Theory of Computing 2012, eq. 2, by brute force, which
is what a GPU is good at). With one spacing for all axes they are whole numbers, exact in float32 for boxes whose squared diagonal
is below 2^24 voxels; other spacings take float64. Nothing is read back to the host: percentiles come from a sort in which what is
no surface stands last. Memory is bounded by working on a few maps, and in them on a few lines, at a time.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.surface import checked_spacing

NONE, MISSED, FALSE, BOTH = range(4)  # of `empty`: "", "missed", "false", "both" of `score_case`
LARGEST_GROUP = 1 << 23  # voxels of the masks scored together
LARGEST_SUM = 1 << 26  # numbers of which a minimum is taken at once


def score_batch(
    predictions: Tensor, references: Tensor, num_classes: int, spacing: Sequence[float] | None = None, empty: str = "penalty"
) -> dict[str, Tensor]:
    """(N, C-1) tensors on the maps' device, a column for each foreground class: `dice`, `jaccard`, `hd95`, `asd`, `empty`.

    Maps are (N, Y, X) or (N, Z, Y, X) of labels 0..C-1 (others count as background: to look would make the host wait). Distances
    are in the unit of `spacing` (one number for each axis; voxels without). `empty` (uint8) is 0, or for a class that is absent 1
    (no prediction), 2 (no reference) or 3 (both). Values are float64 and those of `score_case` with the same word for `empty`;
    where it gives None, NaN. ValueError for unequal shapes, a wrong spacing or an unknown word.
    """
    if predictions.shape != references.shape or predictions.ndim not in (3, 4) or predictions.device != references.device:
        raise ValueError(
            f"label maps {tuple(predictions.shape)} on {predictions.device} (predictions) and {tuple(references.shape)} on "
            f"{references.device} (references): expected the same (N, Y, X) or (N, Z, Y, X) on one device."
        )
    if empty not in ("penalty", "published"):
        raise ValueError(f"empty={empty!r}: expected 'penalty' or 'published'.")
    shape = predictions.shape[1:]
    steps = checked_spacing(spacing, len(shape))
    labels = torch.arange(1, num_classes, device=predictions.device).view(-1, *[1] * len(shape))
    group = max(1, LARGEST_GROUP // max(1, math.prod(shape)))
    columns: list[list[Tensor]] = []
    cases = max(1, group // max(1, num_classes - 1))
    for of_cases in zip(predictions.split(cases), references.split(cases)):
        of_prediction, of_reference = ((maps[:, None] == labels).flatten(0, 1).split(group) for maps in of_cases)
        columns += [_score_masks(p, r, steps) for p, r in zip(of_prediction, of_reference)]
    keys = ("dice", "jaccard", "hd95", "asd", "n_prediction", "n_reference")
    table = {key: torch.cat(values).view(len(predictions), num_classes - 1) for key, values in zip(keys, zip(*columns))}
    no_prediction, no_reference = table.pop("n_prediction") == 0, table.pop("n_reference") == 0
    kind = (no_prediction * MISSED + no_reference * FALSE).to(torch.uint8)
    diagonal = math.hypot(*(n * step for n, step in zip(shape, steps))) if empty == "penalty" else 0.0
    nothing = math.nan if empty == "penalty" else 0.0
    for key, value in table.items():
        penalised = value.masked_fill((kind == MISSED) | (kind == FALSE), 0.0 if key in ("dice", "jaccard") else diagonal)
        table[key] = penalised.masked_fill(kind == BOTH, nothing)
    return {**table, "empty": kind}


def _score_masks(prediction: Tensor, reference: Tensor, steps: tuple[float, ...]) -> list[Tensor]:
    """Dice, Jaccard, HD95, ASD, voxels of the prediction and of the reference of masks (G, *spatial); each (G,)."""
    n_p, n_r, both = (mask.flatten(1).sum(1).double() for mask in (prediction, reference, prediction & reference))
    one = steps[0] if len(set(steps)) == 1 else None
    weights = (1.0,) * len(steps) if one else tuple(step * step for step in steps)
    dtype = torch.float32 if one else torch.float64
    surface_p, surface_r = surface(prediction), surface(reference)
    distances = []
    for sources, targets in ((surface_p, surface_r), (surface_r, surface_p)):
        squared = squared_distance_to(targets, weights, dtype)
        distances.append(squared.masked_fill(~sources, math.inf).flatten(1))
    pooled = torch.cat(distances, 1).sort(1).values
    to_reference = distances[0].double().sqrt().masked_fill(~surface_p.flatten(1), 0.0)
    on_p, on_r = surface_p.flatten(1).sum(1), surface_r.flatten(1).sum(1)
    rank = 0.95 * (on_p + on_r - 1).clamp(min=0).double()
    low = rank.floor().long()
    high = torch.minimum(low + 1, (on_p + on_r - 1).clamp(min=0))
    a, b = (pooled.gather(1, place[:, None])[:, 0].double().sqrt() for place in (low, high))
    scale = one or 1.0
    return [
        2 * both / (n_p + n_r), both / (n_p + n_r - both), scale * (a + (b - a) * (rank - low)), scale * to_reference.sum(1) / on_p,
        n_p, n_r,
    ]  # fmt: skip


def surface(masks: Tensor) -> Tensor:
    """Of masks (G, *spatial), the voxels with a face neighbour outside the object or outside the image."""
    inner = masks.clone()
    for axis in range(1, masks.ndim):
        n = masks.shape[axis]
        inner.narrow(axis, 1, n - 1).logical_and_(masks.narrow(axis, 0, n - 1))
        inner.narrow(axis, 0, n - 1).logical_and_(masks.narrow(axis, 1, n - 1))
        inner.select(axis, 0).fill_(False)
        inner.select(axis, n - 1).fill_(False)
    return masks & ~inner


def squared_distance_to(targets: Tensor, weights: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Squared distance of every voxel to the nearest of `targets` (G, *spatial); `weights` are squared steps. Infinite without any."""
    values = torch.full(targets.shape, math.inf, dtype=dtype, device=targets.device).masked_fill_(targets, 0.0)
    for axis, weight in enumerate(weights, 1):
        n = targets.shape[axis]
        place = torch.arange(n, dtype=dtype, device=targets.device)
        way = weight * (place[:, None] - place[None]) ** 2
        lines = values.movedim(axis, -1)
        lowest = [(part[:, None] + way).amin(2) for part in lines.reshape(-1, n).split(max(1, LARGEST_SUM // (n * n)))]
        values = torch.cat(lowest).view(lines.shape).movedim(-1, axis)
    return values
