"""Augmentation in torch, on any device: the same pixels as `cpu`, by flat indices into the store.

Images of different sizes share one gather: every output pixel computes the place in the flat array that it reads.
All float arithmetic on coordinates is float64, one operation a kernel, so nothing is fused and no pixel differs.
"""
from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dataloaders.augmentation.frame import Fill, Frame
from dataloaders.augmentation.recipes import Draws, brightness_tables, crop_plan, normal_quantiles
from dataloaders.augmentation.scale_crop import PRECISION, plan
from dataloaders.augmentation.strong_views import constant, send

Made = tuple[torch.Tensor, torch.Tensor]
"""As in `cpu`."""


def warp(frame: Frame, rows: np.ndarray, draws: Draws, pixels: Any, values: Any, places: np.ndarray, fill: Fill,
         dtype: torch.dtype) -> Made:
    """Turns and flips, or rotations, then resizing."""
    taking = _Taking(frame, pixels, values, places, fill, dtype)
    shapes = frame.store.shapes[rows]
    host = np.concatenate([frame.geometry(rows, draws), shapes - 1, frame.sides(rows, draws), taking.bases(rows)], 1)
    # Integers below 2^53 are exact in float64: one small transfer holds them all.
    table = taking.send(host).T[:, :, None, None]
    m00, m01, b0, m10, m11, b1, last_row, last_column, side0, side1, base, label_base = table
    row_map, column_map = taking.maps()
    i = row_map[side0.flatten().long()][:, :, None]
    j = column_map[side1.flatten().long()][:, None, :]
    y = b0 + m00 * i + m01 * j
    x = b1 + m10 * i + m11 * j
    inside = (i >= 0) & (j >= 0) & (y >= 0) & (x >= 0) & (y <= last_row) & (x <= last_column)
    width = last_column + 1
    place = ((y + 0.5).floor() * width + (x + 0.5).floor()).long()
    area = ((last_row + 1) * width).long()
    return taking.take(place, inside, base.long(), label_base.long(), area)


def crop_3d(frame: Frame, rows: np.ndarray, draws: Draws, pixels: Any, values: Any, places: np.ndarray, fill: Fill,
            dtype: torch.dtype) -> Made:
    """Turns and a flip in the first two axes, then a crop."""
    taking = _Taking(frame, pixels, values, places, fill, dtype)
    shapes = frame.store.shapes[rows]
    begin = crop_plan(frame.size, shapes, draws)
    host = np.concatenate([frame.geometry(rows, draws).astype(np.int64), shapes, begin, taking.bases(rows)], 1)
    m00, m01, b0, m10, m11, b1, n0, n1, n2, s0, s1, s2, base, label_base = taking.send(host).T[:, :, None, None, None]
    size = frame.size
    i = s0 + torch.arange(size[0], device=taking.device)[:, None, None]
    j = s1 + torch.arange(size[1], device=taking.device)[None, :, None]
    k = s2 + torch.arange(size[2], device=taking.device)
    y, x = b0 + m00 * i + m01 * j, b1 + m10 * i + m11 * j
    inside = (y >= 0) & (x >= 0) & (k >= 0) & (y < n0) & (x < n1) & (k < n2)
    return taking.take((y * n1 + x) * n2 + k, inside, base, label_base, n0 * n1 * n2)


def photo(frame: Frame, rows: np.ndarray, draws: Draws, pixels: Any, values: Any, places: np.ndarray, fill: Fill,
          dtype: torch.dtype) -> Made:
    """Resize, flips, brightness and contrast, blur, quarter turns, noise; then normalise."""
    taking = _Taking(frame, pixels, values, places, fill, dtype)
    shapes, store = frame.store.shapes[rows], frame.store
    height, width = frame.size
    flags = [draws["h_flip"], draws["v_flip"], frame.turns(draws), draws["noise_seed"]]
    host = np.concatenate([np.stack(flags, 1), shapes, frame.side_of[rows], taking.bases(rows)], 1).astype(np.int64)
    h_flip, v_flip, turns, seed, n_rows, n_columns, side0, side1, base, label_base = taking.send(host).T[:, :, None, None]
    i = torch.arange(height, device=taking.device)[:, None]
    j = torch.arange(width, device=taking.device)
    r = torch.where(turns == 1, j, torch.where(turns == 2, height - 1 - i, torch.where(turns == 3, height - 1 - j, i)))
    s = torch.where(turns == 1, width - 1 - i, torch.where(turns == 2, width - 1 - j, torch.where(turns == 3, i, j)))
    r, s = torch.where(v_flip == 1, height - 1 - r, r), torch.where(h_flip == 1, width - 1 - s, s)
    row_map, column_map = taking.maps()
    place = row_map[side0, r] * n_columns + column_map[side1, s]

    warped = taking.values_at(place, None, label_base)
    if pixels is None:
        return taking.nothing(), warped
    channel = torch.arange(store.channels, device=taking.device)[:, None, None]
    raw = taking.pixels[base[:, None] + channel * (n_rows * n_columns)[:, None] + place[:, None]]
    batch = torch.arange(len(rows), device=taking.device)[:, None, None, None]
    pictures = taking.send(brightness_tables(draws))[batch, raw.long()].float()
    for kernel in (3, 5, 7):
        chosen = np.flatnonzero(draws["blur"] == kernel)
        if len(chosen):
            at = taking.send(chosen)
            mirrored = F.pad(pictures[at], (kernel // 2,) * 4, mode="reflect")
            sums = F.avg_pool2d(mirrored, kernel, stride=1, divisor_override=1)
            pictures[at] = torch.floor(sums / kernel**2 + 0.5)
    chosen = np.flatnonzero(draws["noise"] > 0)
    if len(chosen):
        at = taking.send(chosen)
        index = (channel * height + i) * width + j
        normal = _quantiles(taking.device)[_hash(seed[at][:, None], index) >> 16]
        sigma = taking.send(draws["noise"][chosen].astype(np.float32))[:, None, None, None]
        pictures[at] = (pictures[at] + sigma * normal).clamp_(0, 255).floor_()
    return taking.normalised(pictures), warped


def scale_crop(frame: Frame, rows: np.ndarray, draws: Draws, pixels: Any, values: Any, places: np.ndarray, fill: Fill,
               dtype: torch.dtype) -> Made:
    """Scaling of the long side, a crop (padded below and to the right), a mirror; then normalise. Image by image: sizes differ."""
    taking, store = _Taking(frame, pixels, values, places, fill, dtype), frame.store
    height, width = frame.size
    down, across = plan(frame.recipe, (height, width), store.shapes[rows], draws)
    channels = 0 if pixels is None else store.channels
    images = torch.zeros((len(rows), channels, height, width), device=taking.device)
    warped = torch.empty((len(places), height, width), dtype=dtype, device=taking.device)
    for b, (row, flip) in enumerate(zip(rows, draws["h_flip"])):
        n_down, n_across, (n_rows, n_columns) = int(down.valid[b]), int(across.valid[b]), store.shapes[row].tolist()
        columns = slice(width - n_across, width) if flip else slice(0, n_across)
        if channels:
            whole = taking.pixels[store.offsets[row] : store.offsets[row] + channels * n_rows * n_columns].view(channels, n_rows, n_columns)
            top, bottom = int(down.first[b, 0]), int(down.first[b, n_down - 1] + down.count[b, n_down - 1])
            narrowed = taking.filtered(whole[:, top:bottom], across.first[b, :n_across], across.weights[b, :n_across])
            made = taking.filtered(narrowed.transpose(1, 2), down.first[b, :n_down] - top, down.weights[b, :n_down]).transpose(1, 2)
            images[b, :, :n_down, columns] = (made.flip(2) if flip else made).float()
        if b < len(places):
            known = places[b] >= 0
            warped[b] = fill.outside if known else fill.absent_outside
            place = down.nearest[b, :n_down, None] * n_columns + across.nearest[b, :n_across]
            inner = taking.values[places[b] + taking.send(place)].to(dtype) if known else torch.full(
                place.shape, fill.absent, dtype=dtype, device=taking.device)
            warped[b, :n_down, columns] = inner.flip(1) if flip else inner
    return (taking.normalised(images) if channels else taking.nothing()), warped


class _Taking:
    """The store's arrays as tensors, and what reads them."""

    def __init__(self, frame: Frame, pixels: Any, values: Any, places: np.ndarray, fill: Fill, dtype: torch.dtype):
        self.frame, self.places, self.fill, self.dtype = frame, places, fill, dtype
        on_device = frame.store.on_device
        self.values = values if on_device else _shared(values)
        self.device = self.values.device
        self.pixels = pixels if on_device or pixels is None else _shared(pixels)

    def send(self, array: np.ndarray) -> torch.Tensor:
        """A small host array to the device, without waiting for it where it can be pinned."""
        return send(array, self.device)

    def maps(self) -> tuple[torch.Tensor, torch.Tensor]:
        kept = self.frame.device_maps
        if not kept:
            kept.extend(self.send(table) for table in self.frame.maps)
        return kept[0], kept[1]

    def bases(self, rows: np.ndarray) -> np.ndarray:
        """(B, 2) where pixels and values of each row begin; rows behind the last one that has a place get -1."""
        begins = np.full(len(rows), -1, np.int64)
        begins[: len(self.places)] = self.places
        return np.stack([self.frame.store.offsets[rows], begins], 1)

    def nothing(self) -> torch.Tensor:
        """Images of no channel, where only values are asked for."""
        return torch.empty((0, 0, *self.frame.size), device=self.device)

    def take(self, place, inside, base, value_base, area) -> Made:
        """Pixels and values at flat places (B, *size) relative to each image's begin; 0 and the fill where not `inside`."""
        place = place.masked_fill(~inside, 0)
        warped = self.values_at(place, inside, value_base)
        if self.pixels is None:
            return self.nothing(), warped
        channel = torch.arange(self.frame.store.channels, device=self.device).reshape(-1, *[1] * (place.dim() - 1))
        raw = self.pixels[base[:, None] + channel * area[:, None] + place[:, None]]
        images = raw.float().masked_fill_(~inside[:, None], 0)
        return self.normalised(images), warped

    def filtered(self, planes: torch.Tensor, first: np.ndarray, weights: np.ndarray) -> torch.Tensor:
        """(C, R, N) uint8 -> (C, R, out) uint8: the last axis by `weights` (out, K) of the pixels from `first` (out,) on."""
        last = planes.shape[2] - 1
        total = torch.full((*planes.shape[:2], len(first)), 1 << (PRECISION - 1), dtype=torch.int32, device=self.device)
        places, shares = self.send(first), self.send(weights.T)
        for k, share in enumerate(shares):
            total += planes[:, :, (places + k).clamp(max=last)].int() * share
        return (total >> PRECISION).to(torch.uint8)

    def values_at(self, place, inside, base) -> torch.Tensor:
        """Labels, or a map, of the rows that have a place for them (or a fill)."""
        n = len(self.places)
        absent = base[:n] < 0
        if not n or not len(self.values):
            warped = torch.zeros((n, *place.shape[1:]), dtype=self.dtype, device=self.device)
        else:
            warped = self.values[(base[:n].clamp(min=0) + place[:n]).clamp_(max=len(self.values) - 1)].to(self.dtype)
        warped.masked_fill_(absent, self.fill.absent)
        if inside is not None:
            warped.masked_fill_(~inside[:n] & ~absent, self.fill.outside)
            warped.masked_fill_(~inside[:n] & absent, self.fill.absent_outside)
        return warped

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        return images.mul_(constant(self.frame.scale.tolist(), images)).add_(constant(self.frame.shift.tolist(), images))


def _shared(values: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch warns that the array is read-only; nothing here writes to the store.
        warnings.simplefilter("ignore")
        return torch.from_numpy(values)


@lru_cache(maxsize=4)
def _quantiles(device: torch.device) -> torch.Tensor:
    return send(normal_quantiles(), device)


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
