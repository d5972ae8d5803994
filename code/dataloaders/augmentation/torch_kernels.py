"""Augmentation in torch, on any device: the same pixels as `cpu`, by flat indices into the store.

Images of different sizes share one gather: every output pixel computes the place in the flat array that it reads.
All float arithmetic on coordinates is float64, one operation a kernel, so nothing is fused and no pixel differs.
"""
from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from dataloaders.augmentation.recipes import Draws, brightness_tables, crop_plan, normal_quantiles

if TYPE_CHECKING:
    from dataloaders.augmentation.augmenter import Augmenter

IGNORED = 255


def warp(augmenter: Augmenter, rows: np.ndarray, n_labeled: int, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns and flips, or rotations, then resizing."""
    values = _Values(augmenter)
    shapes = augmenter.store.shapes[rows]
    host = np.concatenate([augmenter.geometry(rows, draws), shapes - 1, augmenter.sides(rows, draws), _bases(augmenter, rows)], 1)
    # Integers below 2^53 are exact in float64: one small transfer holds them all.
    table = values.send(host).T[:, :, None, None]
    m00, m01, b0, m10, m11, b1, last_row, last_column, side0, side1, base, label_base = table
    row_map, column_map = values.maps()
    i = row_map[side0.flatten().long()][:, :, None]
    j = column_map[side1.flatten().long()][:, None, :]
    y = b0 + m00 * i + m01 * j
    x = b1 + m10 * i + m11 * j
    inside = (i >= 0) & (j >= 0) & (y >= 0) & (x >= 0) & (y <= last_row) & (x <= last_column)
    width = last_column + 1
    place = ((y + 0.5).floor() * width + (x + 0.5).floor()).long()
    area = ((last_row + 1) * width).long()
    return values.take(place, inside, base.long(), label_base.long(), area, n_labeled)


def crop_3d(augmenter: Augmenter, rows: np.ndarray, n_labeled: int, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns and a flip in the first two axes, then a crop."""
    values = _Values(augmenter)
    shapes = augmenter.store.shapes[rows]
    begin = crop_plan(augmenter.size, shapes, draws)
    host = np.concatenate([augmenter.geometry(rows, draws).astype(np.int64), shapes, begin, _bases(augmenter, rows)], 1)
    m00, m01, b0, m10, m11, b1, n0, n1, n2, s0, s1, s2, base, label_base = values.send(host).T[:, :, None, None, None]
    size = augmenter.size
    i = s0 + torch.arange(size[0], device=values.device)[:, None, None]
    j = s1 + torch.arange(size[1], device=values.device)[None, :, None]
    k = s2 + torch.arange(size[2], device=values.device)
    y, x = b0 + m00 * i + m01 * j, b1 + m10 * i + m11 * j
    inside = (y >= 0) & (x >= 0) & (k >= 0) & (y < n0) & (x < n1) & (k < n2)
    return values.take((y * n1 + x) * n2 + k, inside, base, label_base, n0 * n1 * n2, n_labeled)


def photo(augmenter: Augmenter, rows: np.ndarray, n_labeled: int, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Resize, flips, brightness and contrast, blur, quarter turns, noise; then normalise."""
    values = _Values(augmenter)
    shapes, store = augmenter.store.shapes[rows], augmenter.store
    height, width = augmenter.size
    flags = [draws["h_flip"], draws["v_flip"], augmenter.turns(draws), draws["noise_seed"]]
    host = np.concatenate([np.stack(flags, 1), shapes, augmenter.side_of[rows], _bases(augmenter, rows)], 1).astype(np.int64)
    h_flip, v_flip, turns, seed, n_rows, n_columns, side0, side1, base, label_base = values.send(host).T[:, :, None, None]
    i = torch.arange(height, device=values.device)[:, None]
    j = torch.arange(width, device=values.device)
    r = torch.where(turns == 1, j, torch.where(turns == 2, height - 1 - i, torch.where(turns == 3, height - 1 - j, i)))
    s = torch.where(turns == 1, width - 1 - i, torch.where(turns == 2, width - 1 - j, torch.where(turns == 3, i, j)))
    r, s = torch.where(v_flip == 1, height - 1 - r, r), torch.where(h_flip == 1, width - 1 - s, s)
    row_map, column_map = values.maps()
    place = row_map[side0, r] * n_columns + column_map[side1, s]

    channel = torch.arange(store.channels, device=values.device)[:, None, None]
    raw = values.pixels[base[:, None] + channel * (n_rows * n_columns)[:, None] + place[:, None]]
    batch = torch.arange(len(rows), device=values.device)[:, None, None, None]
    pictures = values.send(brightness_tables(draws))[batch, raw.long()].float()
    for kernel in (3, 5, 7):
        chosen = np.flatnonzero(draws["blur"] == kernel)
        if len(chosen):
            at = values.send(chosen)
            mirrored = F.pad(pictures[at], (kernel // 2,) * 4, mode="reflect")
            sums = F.avg_pool2d(mirrored, kernel, stride=1, divisor_override=1)
            pictures[at] = torch.floor(sums / kernel**2 + 0.5)
    chosen = np.flatnonzero(draws["noise"] > 0)
    if len(chosen):
        at = values.send(chosen)
        index = (channel * height + i) * width + j
        normal = values.send(normal_quantiles())[_hash(seed[at][:, None], index) >> 16]
        sigma = values.send(draws["noise"][chosen].astype(np.float32))[:, None, None, None]
        pictures[at] = (pictures[at] + sigma * normal).clamp_(0, 255).floor_()
    labels = values.labels_at(place, None, label_base, n_labeled)
    return values.normalised(pictures), labels


class _Values:
    """The store's arrays as tensors, and what reads them."""

    def __init__(self, augmenter: Augmenter):
        self.augmenter = augmenter
        store = augmenter.store
        if store.on_device:
            self.pixels, self.labels = store.pixels, store.labels
        else:
            self.pixels, self.labels = _shared(store.pixels), _shared(store.labels)
        self.device = self.pixels.device

    def send(self, array: np.ndarray) -> torch.Tensor:
        """A small host array to the device, without waiting for it where it can be pinned."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def maps(self) -> tuple[torch.Tensor, torch.Tensor]:
        kept = self.augmenter.device_maps
        if not kept:
            kept.extend(torch.from_numpy(table).to(self.device) for table in self.augmenter.maps)
        return kept[0], kept[1]

    def take(self, place, inside, base, label_base, area, n_labeled) -> tuple[torch.Tensor, torch.Tensor]:
        """Values at flat places (B, *size) relative to each image's begin; 0 where not `inside`."""
        place = place.masked_fill(~inside, 0)
        channel = torch.arange(self.augmenter.store.channels, device=self.device).reshape(-1, *[1] * (place.dim() - 1))
        raw = self.pixels[base[:, None] + channel * area[:, None] + place[:, None]]
        images = raw.float().masked_fill_(~inside[:, None], 0)
        return self.normalised(images), self.labels_at(place, inside, label_base, n_labeled)

    def labels_at(self, place, inside, label_base, n_labeled) -> torch.Tensor:
        if not n_labeled:
            return torch.empty((0, *place.shape[1:]), dtype=torch.int64, device=self.device)
        base = label_base[:n_labeled]
        if not len(self.labels):
            return torch.full(place[:n_labeled].shape, IGNORED, dtype=torch.int64, device=self.device)
        labels = self.labels[(base.clamp(min=0) + place[:n_labeled]).clamp_(max=len(self.labels) - 1)].long()
        if inside is not None:
            labels.masked_fill_(~inside[:n_labeled], 0)
        return labels.masked_fill_(base < 0, IGNORED)

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, *[1] * (images.dim() - 2))
        scale, shift = self.send(self.augmenter.scale).reshape(shape), self.send(self.augmenter.shift).reshape(shape)
        return images.mul_(scale).add_(shift)


def _shared(values: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch warns that the array is read-only; nothing here writes to the store.
        warnings.simplefilter("ignore")
        return torch.from_numpy(values)


def _bases(augmenter: Augmenter, rows: np.ndarray) -> np.ndarray:
    """(B, 2) where pixels and labels of each row begin."""
    return np.stack([augmenter.store.offsets[rows], augmenter.store.label_offsets[rows]], 1)


def _hash(seed: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """As in `cpu`: 32 bits, kept in int64 (products wrap, their low 32 bits are right)."""
    value = seed
    for summand in (index, 0x9E3779B9):
        value = (value + summand) & 0xFFFFFFFF
        value = value ^ (value >> 16)
        value = (value * 0x85EBCA6B) & 0xFFFFFFFF
        value = value ^ (value >> 13)
        value = (value * 0xC2B2AE35) & 0xFFFFFFFF
        value = value ^ (value >> 16)
    return value
