"""Predict a volume, or an image, by sliding window.

The published way (UA-MT, SSL4MIS): overlapping windows of the training patch cover the volume; the probabilities of all windows that see
a voxel are averaged, and the class with the largest average is taken. Here windows go through the network in batches, and the
sums stay where the network is.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from math import ceil, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Predictor = Callable[[Tensor], Any]
"""Images (B, C, *sides) -> logits (B, K, *sides), or a tuple with these first."""

GAUSSIAN_SIGMA = 1 / 8
"""Standard deviation of the importance weighting, as a share of the patch (nnU-Net, Isensee et al., Nature Methods 2021)."""


def window_starts(size: int, patch: int, stride: int) -> list[int]:
    """First voxel of each window along an axis; the last window is shifted back so that it ends with the axis."""
    if size <= patch:
        return [0]
    return [min(i * stride, size - patch) for i in range(ceil((size - patch) / stride) + 1)]


def window_stride(stride: Sequence[int] | None, patch: Sequence[int]) -> tuple[int, ...]:
    """The stride that was given, or half the patch along each axis."""
    return tuple(max(side // 2, 1) for side in patch) if stride is None else tuple(stride)


def sliding_window(predictor: Predictor, volume: Tensor, num_classes: int, patch: Sequence[int], stride: Sequence[int], *,
                   device: torch.device | None = None, sw_batch: int = 4, gaussian: bool = False, mirror: bool = False,
                   accumulate_on: str = "auto") -> Tensor:
    """Label map (X, Y, Z) uint8, on the host, of a volume (C, X, Y, Z); an image has the sides (H, W) in place of (X, Y, Z).

    Args:
        predictor: windows (B, C, *patch) -> logits (B, num_classes, *patch), or a tuple with these first.
        patch, stride: voxels along each axis. Axes shorter than the patch are padded by zeros, half of them (rounded down) before.
        device: where the predictor works; the volume's own device without it. A volume may stay on the host.
        sw_batch: windows that pass the network together.
        gaussian: windows count more at their centre than at their border (a Gaussian of 1/8 of the patch), else equally.
        mirror: each window's probabilities are the mean over all combinations of flipped axes, eight of a volume.
        accumulate_on: where probabilities are summed: "device", "host", or "auto", which is the device as long as half of its
            free memory can hold them. They take num_classes x patch[0] x Y x Z floats, however long the volume is along its first axis.

    Raises ValueError for sizes that do not fit each other, FloatingPointError for logits that are not finite.
    """
    labels = torch.empty(volume.shape[1:], dtype=torch.uint8)
    for first, scores in _averages(predictor, volume, num_classes, patch, stride, device, sw_batch, gaussian, mirror, accumulate_on):
        labels[first : first + scores.shape[1]] = scores.argmax(0).to(torch.uint8)
    return labels


def sliding_window_scores(predictor: Predictor, volume: Tensor, num_classes: int, patch: Sequence[int], stride: Sequence[int], *,
                          device: torch.device | None = None, sw_batch: int = 4, gaussian: bool = False, mirror: bool = False,
                          accumulate_on: str = "auto") -> Tensor:
    """The averaged probabilities (num_classes, X, Y, Z) float32, on the host, whose argmax `sliding_window` gives; same arguments."""
    scores = torch.empty((num_classes, *volume.shape[1:]))
    for first, piece in _averages(predictor, volume, num_classes, patch, stride, device, sw_batch, gaussian, mirror, accumulate_on):
        scores[:, first : first + piece.shape[1]] = piece
    return scores


@torch.no_grad()
def cut_windows(predictor: Predictor, image: Tensor, num_classes: int, patch: Sequence[int], stride: Sequence[int], *,
                device: torch.device | None = None, mirror: bool = False) -> Tensor:
    """The averaged probabilities (K, H, W) float32, on the host, of windows that stand at every multiple of the stride and end where the
    image (C, H, W) does, so that the last ones are smaller (UniMatch and DSSN on Cityscapes); arguments and errors as `sliding_window`.

    They sum the probabilities and take the likeliest class, which is the same class.
    """
    size, device = _checked(image, patch, stride, 1, "auto"), image.device if device is None else device
    sums, counts = torch.zeros((num_classes, *size), device=device), torch.zeros(size, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for corner in product(*(range(0, side, step) for side, step in zip(size, stride))):
        place = (slice(None), *_box(corner, patch))
        sums[place] += probabilities_of(predictor, image[place][None].to(device), num_classes, finite, mirror)[0]
        counts[place[1:]] += 1
    if not finite:
        raise FloatingPointError("the network's output is not finite")
    return (sums / counts).cpu()


@torch.no_grad()
def _averages(predictor: Predictor, volume: Tensor, num_classes: int, patch: Sequence[int], stride: Sequence[int],
              device: torch.device | None, sw_batch: int, gaussian: bool, mirror: bool, accumulate_on: str) -> Iterator[tuple[int, Tensor]]:
    """(first plane, averaged probabilities (K, x, Y, Z)) for pieces along the first axis, each as soon as no further window touches it."""
    size = _checked(volume, patch, stride, sw_batch, accumulate_on)
    device = volume.device if device is None else device
    before = [max(n - m, 0) // 2 for n, m in zip(patch, size)]
    after = [max(n - m, 0) - b for n, m, b in zip(patch, size, before)]
    sides = [side for pair in zip(before[::-1], after[::-1]) for side in pair]
    padded = F.pad(volume, sides) if any(after) else volume
    shape = padded.shape[1:]
    starts = [window_starts(m, n, step) for m, n, step in zip(shape, patch, stride)]
    profiles = [_profile(n, gaussian) for n in patch]
    # The sums, their shifted copy, and the volume.
    there = _home_of_sums(accumulate_on, device, 4 * (2 * num_classes * patch[0] * prod(shape[1:]) + padded.numel()))
    if there == device:
        padded = padded.to(device)
    weight = _outer_product(profiles).to(there) if gaussian else None
    # Visits are a product of visits along each axis, since windows stand on a grid.
    visits = [_visits(m, first, profile).to(there) for m, first, profile in zip(shape, starts, profiles)]
    sums = torch.zeros((num_classes, patch[0], *shape[1:]), device=there)

    def piece(first: int, planes: int) -> tuple[int, Tensor]:
        """`planes` finished planes from `first`, without what lies in the padding."""
        count = _outer_product([visits[0][first : first + planes], *visits[1:]])
        inside = _box(before, size)
        average = sums[:, :planes] / count
        return first, average[(slice(None), inside[0] if planes == patch[0] else slice(None), *inside[1:])]

    base = 0
    finite = torch.ones((), dtype=torch.bool, device=device)
    windows = list(product(*starts))
    for number in range(0, len(windows), sw_batch):
        corners = windows[number : number + sw_batch]
        batch = torch.stack([padded[(slice(None), *_box(corner, patch))] for corner in corners]).to(device)
        probabilities = probabilities_of(predictor, batch, num_classes, finite, mirror).to(there)
        for corner, values in zip(corners, probabilities):
            done = corner[0] - base
            if done:
                yield piece(base, done)
                sums = sums.roll(-done, 1)
                sums[:, patch[0] - done :] = 0
                base = corner[0]
            place = (slice(None), slice(None), *_box(corner, patch)[1:])
            sums[place] += values if weight is None else values * weight
    if not finite:
        raise FloatingPointError("the network's output is not finite")
    yield piece(base, patch[0])


def _checked(volume: Tensor, patch: Sequence[int], stride: Sequence[int], sw_batch: int, accumulate_on: str) -> tuple[int, ...]:
    if volume.ndim not in (3, 4) or not volume.numel():
        raise ValueError(f"a volume must be (channels, X, Y, Z), an image (channels, H, W), and hold voxels, got {tuple(volume.shape)}")
    axes = volume.ndim - 1
    if len(patch) != axes or len(stride) != axes:
        raise ValueError(f"patch {tuple(patch)} and stride {tuple(stride)} must have {axes} numbers each, one an axis")
    if any(not 1 <= step <= n for step, n in zip(stride, patch)):
        raise ValueError(f"stride {tuple(stride)}: expected 1 to the patch {tuple(patch)} along each axis; beyond it voxels are left out")
    if sw_batch < 1 or accumulate_on not in ("auto", "device", "host"):
        raise ValueError(f"sw_batch={sw_batch}, accumulate_on={accumulate_on!r}: expected 1 or more, and 'auto', 'device' or 'host'")
    return tuple(volume.shape[1:])


def probabilities_of(predictor: Predictor, batch: Tensor, num_classes: int, finite: Tensor, mirror: bool) -> Tensor:
    """(B, C, *sides) -> (B, K, *sides) float32, with `mirror` the mean over all combinations of flipped axes; `finite` becomes False
    where a logit is not."""
    axes_there = range(2, batch.ndim)
    flips = [axes for n in range(len(axes_there) + 1 if mirror else 1) for axes in combinations(axes_there, n)]
    total = None
    for axes in flips:
        logits = main_output(predictor(batch.flip(axes) if axes else batch))
        if logits.shape != (len(batch), num_classes, *batch.shape[2:]):
            raise ValueError(f"the network gives logits {tuple(logits.shape)} for images {tuple(batch.shape)} and {num_classes} classes")
        finite &= logits.isfinite().all()
        probabilities = logits.float().softmax(1)
        if total is None:
            total = probabilities
        else:
            total += probabilities.flip(axes)
    assert total is not None
    return total / len(flips) if mirror else total


def _box(corner: Sequence[int], patch: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + n) for first, n in zip(corner, patch))


def main_output(outputs: Any) -> Tensor:
    """The main logits of a network, which stand first where it has several heads."""
    return outputs[0] if isinstance(outputs, list | tuple) else outputs


def _profile(n: int, gaussian: bool) -> Tensor:
    """Weight of each of a window's n voxels along an axis."""
    if not gaussian:
        return torch.ones(n)
    return torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (GAUSSIAN_SIGMA * n)) ** 2)


def _visits(size: int, starts: Sequence[int], profile: Tensor) -> Tensor:
    """Summed weight of all windows at each voxel of an axis."""
    total = torch.zeros(size)
    for first in starts:
        total[first : first + len(profile)] += profile
    return total


def _outer_product(vectors: Sequence[Tensor]) -> Tensor:
    """(X,), (Y,), (Z,) -> their outer product (X, Y, Z)."""
    total = vectors[0]
    for vector in vectors[1:]:
        total = total[..., None] * vector
    return total


def _home_of_sums(accumulate_on: str, device: torch.device, needed: int) -> torch.device:
    """The host, if asked for or if `needed` bytes are more than half of what the device has free; else the device."""
    tight = accumulate_on == "auto" and needed > _free_bytes(device) / 2
    return torch.device("cpu") if tight or accumulate_on == "host" else device


def _free_bytes(device: torch.device) -> float:
    """Memory that sums may use on a device; the host's is not counted."""
    if device.type != "cuda":
        return float("inf")
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
