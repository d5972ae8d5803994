"""CTAugment: weak and strong views whose operations' strengths are learned (Berthelot et al., ReMixMatch, ICLR 2020, section 3.2.2).

The range of each operation's strength is cut into bins with a weight each. A bin whose weight has sunk is not drawn any more; it sinks
where views that used it got a low score. As SSL4MIS's FixMatch has it: one weak and one strong policy of two operations each, drawn with
replacement, for a whole epoch; at its end the bins of both move towards the epoch's mean score.

What differs from that code, which has it otherwise by mistake: image and label undergo every weak operation together, cutout's place
included; labels are resampled by nearest neighbour always, so that no class is invented; translation moves by a share of the side, not by
a third of a pixel; images are not rounded to 256 levels. Pixels act on the scale of `strong_views.py`, on any device; the rows of an
image that an operation moves in from outside are black, their label is background.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataloaders.augmentation.strong_views import (
    Scale,
    denormalised,
    gaussian_blur,
    inside,
    limits,
    normalised,
    on,
    send,
    with_brightness,
    with_contrast,
    with_hue,
    with_saturation,
)
from dataloaders.description import DataSet

DEPTH, THRESHOLD, DECAY = 2, 0.85, 0.99
CPU = torch.device("cpu")
Operation = tuple[str, list[float]]
"""A name and its values, each in [0, 1)."""
Plan = Mapping[str, Any]
Pair = tuple[Tensor, Tensor]


class CTAugment:
    """The policy (see `loader.Policy`): `sample` and `apply` for the loader, `note` each step, `update` at the end of an epoch.

    Of the data set its normalisation counts; `seed` draws the first operations. The state is plain: weights of the bins, the operations
    of this epoch, and the scores noted so far.
    """

    def __init__(self, data: DataSet, seed: int):
        self.mean, self.std = data.mean, data.std
        self.rates = {name: [[1.0] * bins for bins in sizes] for name, (sizes, _) in (WEAK | STRONG).items()}
        self.noted: Tensor | float = 0.0
        self.count = 0
        self._draw(np.random.default_rng(seed))

    def _draw(self, rng: np.random.Generator) -> None:
        self.current = {"weak": self._operations(WEAK, rng), "strong": self._operations(STRONG, rng)}

    def _operations(self, known: Mapping[str, Any], rng: np.random.Generator) -> list[Operation]:
        names = list(known)
        chosen = [names[k] for k in rng.integers(len(names), size=DEPTH)]
        return [(name, [value_of(weights, rng) for weights in self.rates[name]]) for name in chosen]

    def sample(self, rng: np.random.Generator) -> Plan:
        """This epoch's operations, and two numbers for each weak one, where a row may put its hole."""
        return {**self.current, "places": rng.random((DEPTH, 2)).tolist()}

    def apply(self, images: Tensor, labels: Tensor, plans: Sequence[Plan]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) float32 and (n, H, W) int64 of the first n rows -> weak images, their labels, strong images.

        The plans are of one epoch, and so are alike but for the places of holes.
        """
        pixels, places = denormalised(images, self.mean, self.std), np.array([plan["places"] for plan in plans])
        lowest, highest = limits(pixels)
        weak = (pixels - lowest) / (highest - lowest)
        for turn, (name, values) in enumerate(plans[0]["weak"]):
            weak, labels = WEAK[name][1](weak, labels, values, places[:, turn])
        strong = weak
        for name, values in plans[0]["strong"]:
            strong = STRONG[name][1](strong, *values).clamp(0, 1)
        weak, strong = (normalised(x * (highest - lowest) + lowest, self.mean, self.std) for x in (weak, strong))
        return weak, labels, strong

    def note(self, score: Tensor | float) -> None:
        """The score of a step, a scalar; near 1 where the network did well on these views."""
        self.noted, self.count = self.noted + score, self.count + 1

    def update(self, rng: np.random.Generator) -> None:
        """Moves the bins that were used towards the mean score of the epoch, and draws the operations of the next."""
        score = float(self.noted) / max(self.count, 1)
        for name, values in [*self.current["weak"], *self.current["strong"]]:
            for weights, value in zip(self.rates[name], values):
                place = int(value * len(weights) * 0.999)
                weights[place] = DECAY * weights[place] + (1 - DECAY) * score
        self.noted, self.count = 0.0, 0
        self._draw(rng)

    def state_dict(self) -> dict[str, Any]:
        return {"rates": self.rates, "current": self.current, "noted": self.noted, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rates, self.current, self.noted, self.count = (state[name] for name in ("rates", "current", "noted", "count"))


def chances(weights: Sequence[float]) -> np.ndarray:
    """Probability of each bin: weights that have sunk below `THRESHOLD` of the largest are 0, the others as they are."""
    shares = np.asarray(weights) + 1 - DECAY
    shares = shares / shares.max()
    shares[shares < THRESHOLD] = 0
    return shares / shares.sum()


def value_of(weights: Sequence[float], rng: np.random.Generator) -> float:
    """A strength in [0, 1): a bin by its chance, then any place in it."""
    return float((rng.choice(len(weights), p=chances(weights)) + rng.random()) / len(weights))


# Strong operations: (B, C, H, W) in 0..1 and a strength in [0, 1) -> the same; they move nothing


def autocontrast(x: Tensor) -> Tensor:
    """Each channel stretched to 0..1."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-12), x)


def equalize(x: Tensor) -> Tensor:
    """Each channel mapped so that its 256 grey levels are used evenly; unchanged where it has too few of them."""
    levels = (255 * x).round().long().flatten(2)
    counts = levels.new_zeros(*x.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels))
    step = (counts.sum(2, keepdim=True) - counts.gather(2, levels.amax(2, keepdim=True))) // 255
    table = (step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)
    even = table.clamp(max=255).gather(2, levels).view_as(x).to(x.dtype) / 255
    return torch.where(step.unsqueeze(3) > 0, even, x)


def filtered(x: Tensor, weights: Sequence[Sequence[float]]) -> Tensor:
    """Each channel with a small kernel, normalised; border pixels are repeated outwards."""
    kernel = np.array(weights, np.float64)
    planes = F.pad(x, (len(weights) // 2,) * 4, mode="replicate").flatten(0, 1).unsqueeze(1)
    return F.conv2d(planes, on(x, kernel / kernel.sum())[None, None]).reshape(x.shape)


SMOOTH = [[1, 1, 1], [1, 5, 1], [1, 1, 1]]
RING = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
"""Kernels of the operations that the reference implementation calls smooth and blur."""


def posterize(x: Tensor, strength: float) -> Tensor:
    """The upper 1 to 8 bits of 256 levels."""
    step = 2 ** (7 - int(7.999 * strength))
    return (255 * x).round().div(step, rounding_mode="floor") * step / 255


def solarize(x: Tensor, strength: float) -> Tensor:
    """Values from a threshold on inverted."""
    return torch.where(255 * x >= int(255.999 * strength), 1 - x, x)


def factor(strength: float) -> float:
    return 0.1 + 1.9 * strength


STRONG: dict[str, tuple[tuple[int, ...], Callable[..., Tensor]]] = {
    "autocontrast": ((17,), lambda x, v: torch.lerp(x, autocontrast(x), v)),
    "equalize": ((17,), lambda x, v: torch.lerp(x, equalize(x), v)),
    "invert": ((17,), lambda x, v: torch.lerp(x, 1 - x, v)),
    "brightness": ((17,), lambda x, v: with_brightness(x, factor(v))),
    "color": ((17,), lambda x, v: with_saturation(x, factor(v)) if x.shape[1] == 3 else x),
    "contrast": ((17,), lambda x, v: with_contrast(x, factor(v))),
    "sharpness": ((17,), lambda x, v: torch.lerp(filtered(x, SMOOTH), x, factor(v))),
    "posterize": ((8,), posterize),
    "solarize": ((17,), solarize),
    "smooth": ((17,), lambda x, v: torch.lerp(x, filtered(x, SMOOTH), v)),
    "blur": ((17,), lambda x, v: torch.lerp(x, filtered(x, RING), v)),
}
"""By name: the bins of each strength, and the operation. Without three channels there is no colour to change."""


# The same operations by factors of their own, each drawn evenly: DSSN's on VOC2012


OF_DSSN: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "identity": lambda x, rng: x,
    "autocontrast": lambda x, rng: autocontrast(x),
    "equalize": lambda x, rng: equalize(x),
    "blur": lambda x, rng: gaussian_blur(x, rng, probability=1.0),
    "brightness": lambda x, rng: with_brightness(x, rng.uniform(0.05, 0.95)),
    "contrast": lambda x, rng: with_contrast(x, rng.uniform(0.05, 0.95)),
    "color": lambda x, rng: with_saturation(x, rng.uniform(0.05, 0.95)) if x.shape[1] == 3 else x,
    "sharpness": lambda x, rng: torch.lerp(filtered(x, SMOOTH), x, rng.uniform(0.05, 0.95)),
    "posterize": lambda x, rng: posterize(x, (int(rng.integers(4, 8)) - 0.5) / 8),
    "solarize": lambda x, rng: solarize(x, (int(rng.integers(1, 256)) + 0.5) / 256),
    "hue": lambda x, rng: with_hue(x, x.new_full((), rng.uniform(-0.5, 0.5))) if x.shape[1] == 3 else x,
}
"""Factors of 0.05 to 0.95, the upper 4 to 7 bits, thresholds of 1 to 255, half a turn of the colours either way."""


def some_operations(images: Tensor, rng: np.random.Generator, mean: Scale = None, std: Scale = None) -> Tensor:
    """Each image (B, C, H, W) by one to three operations of `OF_DSSN`, drawn with replacement, values kept in range after each."""
    names, changed = list(OF_DSSN), []
    pixels = denormalised(images, mean, std)
    lowest, highest = limits(pixels)
    for unit in ((pixels - lowest) / (highest - lowest)).split(1):
        for k in rng.integers(len(names), size=rng.integers(1, 4)):
            unit = OF_DSSN[names[k]](unit, rng).clamp(0, 1)
        changed.append(unit)
    return normalised(torch.cat(changed) * (highest - lowest) + lowest, mean, std)


# Weak operations: (B, C, H, W), labels (n, H, W) of the first rows, strengths, a place a row -> images and labels moved together


def identity(x: Tensor, labels: Tensor, values: Sequence[float], places: np.ndarray) -> Pair:
    return x, labels


def hole(x: Tensor, labels: Tensor, values: Sequence[float], places: np.ndarray) -> Pair:
    """Cutout: a square of up to half the shorter side, its centre in the lower right quarter (as published), is black background."""
    height, width = x.shape[2:]
    side = 1 + int(values[0] * min(height, width) * 0.499)
    starts = np.stack([n // 2 + (u * (n - n // 2)).astype(np.int64) - side // 2 for n, u in zip((height, width), np.transpose(places))], 1)
    box = inside(starts, starts + side, (height, width), x.device)
    return x.masked_fill(box, 0), labels.masked_fill(box[: len(labels), 0], 0)


def warped(x: Tensor, labels: Tensor, matrix: Sequence[float], shift: Sequence[float] = (0.0, 0.0)) -> Pair:
    """Pixel p shows what lay at `matrix` (p - centre) + centre - shift, the nearest one; 0 where that is outside."""
    y, z, there = sources(tuple(x.shape[2:]), tuple(matrix), tuple(shift), x.device)
    return x[..., y, z] * there, labels[:, y, z] * there


@lru_cache(maxsize=8)
def sources(sides: tuple[int, ...], matrix: tuple[float, ...], shift: tuple[float, ...],
            device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(row, column, whether it is inside) of what each pixel shows, (H, W) each; one for all images of an epoch."""
    height, width = sides
    i = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    j = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = (matrix[0] * i + matrix[1] * j + (height - 1) / 2 - shift[0] + 0.5).floor().long()
    z = (matrix[2] * i + matrix[3] * j + (width - 1) / 2 - shift[1] + 0.5).floor().long()
    there = (y >= 0) & (z >= 0) & (y < height) & (z < width)
    y, z, there = (send(one.numpy(), device) for one in (y.clamp(0, height - 1), z.clamp(0, width - 1), there))
    return y, z, there


def rotate(x: Tensor, labels: Tensor, values: Sequence[float], places: np.ndarray) -> Pair:
    """By up to 45 degrees either way."""
    angle = math.radians(round((2 * values[0] - 1) * 45))
    return warped(x, labels, (math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)))


def shift_of(value: float, side: int = 1) -> float:
    """Up to 0.3 of a side either way."""
    return (2 * value - 1) * 0.3 * side


def rescale(x: Tensor, labels: Tensor, values: Sequence[float], places: np.ndarray) -> Pair:
    """Up to a quarter of each side cut off all round, the rest enlarged by one of six filters; labels by the nearest pixel."""
    method = list(KERNELS)[int(values[1] * len(KERNELS) * 0.999)]
    rows, columns = (enlarging(side, 0.25 * values[0], method, x.device).to(x.dtype) for side in x.shape[2:])
    y, z = (enlarging(side, 0.25 * values[0], "nearest", x.device).argmax(1) for side in x.shape[2:])
    return (rows @ x @ columns.T).clamp(0, 1), labels[:, y[:, None], z]


KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "lanczos": (3.0, lambda d: np.sinc(d) * np.sinc(d / 3)),
    "bicubic": (2.0, lambda d: np.where(d < 1, (1.5 * d - 2.5) * d**2 + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2)),
    "bilinear": (1.0, lambda d: 1 - d),
    "box": (0.5, np.ones_like),
    "hamming": (1.0, lambda d: np.sinc(d) * (0.54 + 0.46 * np.cos(np.pi * d))),
    "nearest": (0.0, np.ones_like),
}
"""By name: the radius of a resampling filter in pixels, and its height at a distance within that."""


@lru_cache(maxsize=64)
def enlarging(side: int, cut: float, method: str, device: torch.device = CPU) -> Tensor:
    """(side, side) float32 weights that make a side of what is left when a share `cut` is taken off at both ends."""
    centres = side * (cut + (np.arange(side) + 0.5) * (1 - 2 * cut) / side)
    radius, height = KERNELS[method]
    if radius == 0:
        return send(np.eye(side, dtype=np.float32)[np.floor(centres).astype(int).clip(0, side - 1)], device)
    distance = np.abs(centres[:, None] - np.arange(side) - 0.5)
    weights = np.where(distance <= radius + 1e-9, height(distance), 0)
    return send((weights / weights.sum(1, keepdims=True)).astype(np.float32), device)


WEAK: dict[str, tuple[tuple[int, ...], Callable[..., Pair]]] = {
    "cutout": ((17,), hole),
    "identity": ((), identity),
    "rescale": ((17, 6), rescale),
    "rotate": ((17,), rotate),
    "shear_x": ((17,), lambda x, labels, values, _: warped(x, labels, (1, 0, shift_of(values[0]), 1))),
    "shear_y": ((17,), lambda x, labels, values, _: warped(x, labels, (1, shift_of(values[0]), 0, 1))),
    "translate_x": ((17,), lambda x, labels, values, _: warped(x, labels, (1, 0, 0, 1), (0, shift_of(values[0], x.shape[3])))),
    "translate_y": ((17,), lambda x, labels, values, _: warped(x, labels, (1, 0, 0, 1), (shift_of(values[0], x.shape[2]), 0))),
}
