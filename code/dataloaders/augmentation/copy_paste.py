"""Boxes through which images are pasted into one another (BCP, UCC), or into themselves (STI's Cutin)."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataloaders.augmentation.strong_views import inside, on, send


def paste_box(rng: np.random.Generator, sides: Sequence[int], share: float = 2 / 3, device: torch.device | str = "cpu") -> Tensor:
    """(*sides) bool, True in a box whose sides are floor(`share` * side), at a random place.

    A box never reaches the far border: its start is drawn below the last possible one, axis by axis (as published).
    """
    within = np.ones((1,) * len(sides), bool)
    for axis, side in enumerate(sides):
        size = int(side * share)
        start = rng.integers(max(side - size, 1))
        places = np.arange(side)
        within = within & np.expand_dims((places >= start) & (places < start + size), [k for k in range(len(sides)) if k != axis])
    return send(within, device)


def half_box(rng: np.random.Generator, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, left), (bottom, right)) of a box over half of an image: more than half as wide and as high as it, at a random place.

    The width is drawn, int(width / 2 + 1) to width - 1, and the height follows from the area (UCC and ReCo, as simEps's authors have them).
    """
    wide = int(rng.integers(int(width / 2 + 1), width))
    high = round(height * width / (2 * wide))
    left = int(rng.integers(0, width - wide + 1))
    top = int(rng.integers(0, height - high + 1))
    return (top, left), (top + high, left + wide)


def half_boxes(rng: np.random.Generator, n: int, sides: Sequence[int], probability: float,
               device: torch.device | str = "cpu") -> Tensor:
    """(n, 1, H, W) bool, True inside a `half_box`; a row has one with probability `probability`, else none."""
    starts, stops = np.zeros((2, n, 2), np.int64)
    for row in np.flatnonzero(rng.random(n) < probability):
        starts[row], stops[row] = half_box(rng, *sides)
    return inside(starts, stops, sides, device)


def cut_in(images: Tensor, labels: Tensor, rng: np.random.Generator, probability: float) -> tuple[Tensor, Tensor]:
    """STI's Cutin: each image (B, C, H, W) with probability `probability`, with its label (B, H, W), shows itself once more, smaller and
    turned by any angle, in a box around its most salient place; then it is mirrored both ways.

    A box has sqrt(1 - U(0.2, 0.7)) of each side. Its corners, which the turn leaves empty, stay as they are (published: black, and
    background in a label that is scaled bilinearly). Salient is where `salience` is largest (published: a detector of OpenCV's extras).
    """
    chosen, (height, width) = np.flatnonzero(rng.random(len(images)) < probability), images.shape[2:]
    if len(chosen):
        images, labels = images.clone(), labels.clone()
    for row in chosen:
        share, angle = np.sqrt(1 - rng.uniform(0.2, 0.7)), rng.uniform(0, 2 * np.pi)
        high, wide = max(int(share * height), 1), max(int(share * width), 1)
        y, x = divmod(int(salience(images[row]).argmax()), width)
        top, left = min(max(y - high // 2, 0), height - high), min(max(x - wide // 2, 0), width - wide)
        box = (slice(top, top + high), slice(left, left + wide))
        cos, sin = np.cos(angle), np.sin(angle)
        turn = on(images, np.array([[[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]]))
        places = F.affine_grid(turn, [1, 1, high, wide], align_corners=False)
        seen = F.grid_sample(images[row : row + 1], places, padding_mode="border", align_corners=False)[0]
        ids = F.grid_sample(labels[None, row : row + 1].to(images.dtype), places, "nearest", "border", align_corners=False)[0, 0]
        filled = (places.abs() <= 1).all(3)[0]
        images[row][:, *box] = torch.where(filled, seen, images[row][:, *box])
        labels[row][box] = torch.where(filled, ids.to(labels.dtype), labels[row][box])
        images[row], labels[row] = images[row].flip(1, 2), labels[row].flip(0, 1)
    return images, labels


def salience(image: Tensor) -> Tensor:
    """(H, W) how far each place of an image (C, H, W), averaged over 9x9 pixels, is from the image's mean colour."""
    smooth = F.avg_pool2d(image[None], 9, 1, 4, count_include_pad=False)[0]
    return (smooth - image.mean((1, 2), keepdim=True)).square().sum(0)
