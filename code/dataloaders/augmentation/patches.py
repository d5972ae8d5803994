"""Patches that show one class each, cut from images or volumes by their labels or pseudo-labels (PatchCL)."""
from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataloaders.augmentation.strong_views import on

NO_CLASS = 255


def patch_sides(sides: tuple[int, ...], multiple: Any, share: float) -> tuple[int, ...]:
    """Sides of patches for a network: a share of the image's, raised to the next multiple that it takes (one number, or one for each axis)
    and to two of them at least."""
    multiples = (multiple,) * len(sides) if isinstance(multiple, int) else multiple
    return tuple(step * max(2, ceil(share * side / step)) for side, step in zip(sides, multiples))


def patch_draws(rng: np.random.Generator, rows: int, number: int, dimensions: int) -> np.ndarray:
    """What `class_patches` needs of chance for so many patches of each row."""
    return rng.random((rows, number, 3 + dimensions))


@torch.no_grad()
def class_patches(images: Tensor, labels: Tensor, num_classes: int, draws: np.ndarray, sides: tuple[int, ...],
                  least: float) -> tuple[Tensor, Tensor]:
    """Patches (B * number, C, *sides) of images (B, C, *spatial), pixels of all but one class set to 0; and their classes (B * number,).

    labels (B, *spatial) integers. For each patch a class is drawn of those that its image shows, a pixel of it, and a box around that, of
    U(least, 1) of the image's sides (one share for all axes), which lies inside the image; nearest values make it a patch. A patch that
    shows nothing of its class, and all of an image without labels below `num_classes`, have the class 255.
    """
    rows, number, spatial = len(images), draws.shape[1], images.shape[2:]
    of_class, of_pixel, size, *places = on(images, draws.reshape(rows * number, -1).astype(np.float32)).T
    of_row = [k for k in range(rows) for _ in range(number)]
    row = on(images, np.array(of_row))
    flat = labels.flatten(1)
    counts = torch.stack([(flat == c).sum(1) for c in range(num_classes)], 1)[row]
    there = (counts > 0).cumsum(1)
    none = there[:, -1] == 0
    classes = torch.where(none, 0, (there < _place(of_class, there[:, -1])[:, None]).sum(1))
    rank = _place(of_pixel, counts.gather(1, classes[:, None])[:, 0])
    pixel = torch.stack([((flat[k] == c).cumsum(0) < r).sum() for k, c, r in zip(of_row, classes, rank)]).clamp(max=flat.shape[1] - 1)
    indices: list[Tensor] = []
    for axis in range(len(spatial) - 1, -1, -1):
        side = spatial[axis]
        centre, pixel = pixel % side, pixel // side
        extent = (least + size * (1 - least)) * side
        start = torch.minimum((centre - places[axis] * extent).clamp(min=0), side - extent)
        steps = (torch.arange(sides[axis], device=images.device) + 0.5) / sides[axis]
        at = (start[:, None] + steps * extent[:, None]).long().clamp(max=side - 1)
        indices.insert(0, at.view(len(at), *[1] * axis, -1, *[1] * (len(spatial) - 1 - axis)))
    where = (row.view(-1, *[1] * len(spatial)), *indices)
    shown = labels[where] == classes.view(-1, *[1] * len(spatial))
    patches = torch.where(shown.unsqueeze(1), images.movedim(1, -1)[where].movedim(-1, 1), 0.0)
    return patches.contiguous(), torch.where(none | ~shown.flatten(1).any(1), NO_CLASS, classes)


def _place(share: Tensor, count: Tensor) -> Tensor:
    """1, 2, ..., count as the share goes from 0 to 1 (which single precision may round up to)."""
    return torch.minimum((share * count).long() + 1, count)
