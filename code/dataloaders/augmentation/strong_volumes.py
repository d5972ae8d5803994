"""Strong views of volumes (B, C, X, Y, Z) that are already augmented weakly: appearance changes, places stay.

Every number is drawn on the host from a NumPy generator, a fixed number a row; fields of noise are drawn by torch on the device. Rows that
a probability leaves out come back to the bit.
"""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dataloaders.augmentation.nnunet import blurred, numbers, stretched
from dataloaders.augmentation.strong_views import Scale, cutmix_boxes, on, recoloured

ORDER = 3
"""Of the polynomial that a bias field is the exponential of (torchio's default)."""


def contrast_view(volumes: Tensor, rng: np.random.Generator, strength: float = 0.5, probability: float = 0.8,
                  noise: tuple[float, float] = (0.1, 1.0), noise_probability: float = 0.2) -> Tensor:
    """AD-MT's: values are scaled and shifted in some volumes, noise is added to some.

    Between a volume's least and largest value as 0 and 1: x -> a x + b mean(a x), kept in range, a = 1 + U(-s, s), b = U(-s, s), s the
    strength. Noise has a deviation of U(*noise) deviations of the volume, and is clipped at twice that.
    """
    draws = rng.random((len(volumes), 5))
    rows = np.flatnonzero(draws[:, 0] < probability)
    if len(rows):
        at = on(volumes, rows)
        some = volumes[at]
        low, high = (stretched(reduce(some.flatten(1), dim=1), some) for reduce in (torch.amin, torch.amax))
        width = (high - low).clamp(min=1e-7)
        factor, shift = (stretched(numbers(strength * (2 * draws[rows, k] - 1), some), some) for k in (1, 2))
        unit = (some - low) / width * (1 + factor)
        unit = (unit + shift * stretched(unit.flatten(1).mean(1), unit)).clamp(0, 1)
        volumes = volumes.index_copy(0, at, unit * width + low)
    rows = np.flatnonzero(draws[:, 3] < noise_probability)
    if len(rows):
        at = on(volumes, rows)
        some = volumes[at]
        deviation = stretched(numbers(noise[0] + draws[rows, 4] * (noise[1] - noise[0]), some) * some.flatten(1).std(1), some)
        volumes = volumes.index_copy(0, at, some + deviation * torch.randn_like(some).clamp(-2, 2))
    return volumes


def field_view(volumes: Tensor, rng: np.random.Generator, probability: float = 0.8, blur_probability: float = 0.5) -> Tensor:
    """CrossMatch's: a bias field and a gamma in some volumes, a blur in some (the ranges are torchio's).

    The field is exp of a polynomial of order 3 with coefficients U(-1/2, 1/2), along axes from -1 to 1. Gamma is exp U(-1/2, 1/2), of the
    absolute value; signs are kept. The Gaussian has a deviation of U(0.1, 2) voxels along each axis.
    """
    n, channels = volumes.shape[:2]
    i, j, k = np.array([place for place in np.ndindex((ORDER + 1,) * 3) if sum(place) <= ORDER]).T
    draws = rng.random((n, 6 + len(i)))
    rows = np.flatnonzero(draws[:, 0] < probability)
    if len(rows):
        at = on(volumes, rows)
        coefficients = np.zeros((len(rows), *(ORDER + 1,) * 3))
        coefficients[:, i, j, k] = draws[rows, 6:] - 0.5
        powers = [numbers(((2 * np.arange(side) + 1) / side - 1) ** np.arange(ORDER + 1)[:, None], volumes) for side in volumes.shape[2:]]
        field = torch.einsum("nijk,ix,jy,kz->nxyz", numbers(coefficients, volumes), *powers).exp().unsqueeze(1)
        gamma = stretched(numbers(np.exp(draws[rows, 1] - 0.5), volumes), volumes)
        some = volumes[at] * field
        volumes = volumes.index_copy(0, at, some.sign() * some.abs().pow(gamma))
    rows = np.flatnonzero(draws[:, 2] < blur_probability)
    if len(rows):
        at = on(volumes, rows)
        planes = volumes[at].flatten(0, 1)
        deviations = (0.1 + 1.9 * draws[rows, 3:6]).repeat(channels, 0)
        volumes = volumes.index_copy(0, at, blurred(planes, deviations, radius=6).view(-1, *volumes.shape[1:]))
    return volumes


def view_with_boxes(images: Tensor, others: Tensor, rng: np.random.Generator, mean: Scale = None,
                    std: Scale = None) -> tuple[Tensor, Tensor]:
    """A strong view of images or volumes with boxes of others, as many and as strongly changed: (view, box), box (B, 1, *sides) bool.

    Volumes have a `field_view`, images UniMatch's jitter and blur; one half of the rows has a box (`cutmix_boxes`).
    """
    def changed(x: Tensor) -> Tensor:
        return field_view(x, rng) if x.dim() == 5 else recoloured(x, rng, (0.5, 0.5, 0.5, 0.25), 0.5, 0.0, mean, std, 0.8)

    box = cutmix_boxes(rng, len(images), images.shape[2:], device=images.device)
    return torch.where(box, changed(others), changed(images)), box
