"""The augmentation that nnU-Net trains with (Isensee et al., Nature Methods 18, 2021; github.com/MIC-DKFZ/nnUNet, version 2), on batches.

Its operations, order, probabilities and ranges are those of the default trainer's code: rotation, scaling, noise, blur, brightness,
contrast, low resolution, gamma of the inverted image, gamma, mirroring. (The paper's supplement has wider ranges here and there.
Additive brightness and elastic deformation are in its toolbox, but its default trainer uses neither.)

nnU-Net's images have mean 0 and deviation 1. Ours come as the data set has them, so noise is measured in deviations of each image's
channel, and brightness acts on the distance from its mean; the other operations give the same image on any scale.

nnU-Net cuts its patch out of a larger one, so that a turned patch has tissue in its corners; where the image itself ends it has zeros and
the label background. Here the patch is all there is: it is mirrored at its border, image and label alike. So no pixel is invented, none
must be ignored, and there are no wedges.

Every number is drawn on the host, a fixed number a row, so that row i does not depend on the rows after it; the field of noise is
drawn by torch on the device.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataloaders.augmentation.strong_views import send

ANISOTROPIC = 3
"""A patch whose longest side is more than this many times the shortest is turned and scaled in the plane of its longer axes only."""
OBLONG = 1.5
"""A plane whose longer side is more than this many times the shorter is turned by 15 degrees at most."""
SCALING, NOISE, BLUR, FACTOR, RESOLUTION, GAMMA = (0.7, 1.4), (0.0, 0.1), (0.5, 1.0), (0.75, 1.25), (0.5, 1.0), (0.7, 1.5)
BLUR_RADIUS = 4
ROW, CHANNEL = 17, 14
"""Uniform numbers a row, and a channel of it."""


@dataclass(frozen=True)
class Strength:
    """Probabilities: of an operation for an image (blur and low resolution then take each channel with one half), of a flip for an axis."""

    rotation: float = 0.2
    scaling: float = 0.2
    noise: float = 0.1
    blur: float = 0.2
    brightness: float = 0.15
    contrast: float = 0.15
    low_resolution: float = 0.25
    inverted_gamma: float = 0.1
    gamma: float = 0.3
    mirror: float = 0.5


NNUNET = Strength()


@dataclass(frozen=True)
class Plan:
    """What is done to n images of C channels; neutral values (0 for a deviation or an angle, 1 for a factor) leave an operation out."""

    matrix: np.ndarray
    """(n, d, d) from a place in the new image to one in the old, both in pixels from the centre."""
    noise: np.ndarray
    """(n,) deviation, in deviations of each channel."""
    blur: np.ndarray
    """(n, C, d) deviations in pixels."""
    brightness: np.ndarray
    """(n, C) factors, as those that follow."""
    contrast: np.ndarray
    resolution: np.ndarray
    """(n, C, d) shares of the side."""
    inverted_gamma: np.ndarray
    """(n, C) exponents."""
    gamma: np.ndarray
    mirror: np.ndarray
    """(n, d) bool."""


def augment(images: Tensor, labels: Tensor, rng: np.random.Generator, strength: Strength = NNUNET) -> tuple[Tensor, Tensor]:
    """Images (B, C, *sides) float and labels (n <= B, *sides) int64 of the first rows -> both augmented, the inputs left as they are.

    Images are interpolated linearly, labels take the nearest; an ignored label (255) moves along. What is left out changes no bit.
    """
    new_images, new_labels = apply(images, labels, draw(rng, len(images), images.shape[1], images.shape[2:], strength))
    if images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last):
        new_images = new_images.contiguous(memory_format=torch.channels_last)
    return new_images, new_labels


def draw(rng: np.random.Generator, n: int, channels: int, sides: Sequence[int], strength: Strength = NNUNET) -> Plan:
    """What is done to n images of these sides."""
    d = len(sides)
    u = rng.random((n, ROW + CHANNEL * channels))
    row, of = u[:, :ROW], u[:, ROW:].reshape(n, channels, CHANNEL)
    flat = thin_axis(sides)

    def span(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
        return bounds[0] + values * (bounds[1] - bounds[0])

    def either_side(pair: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
        """Below 1 or above it, each half of the time."""
        return np.where(pair[..., 0] < 0.5, span(pair[..., 1], (bounds[0], 1)), span(pair[..., 1], (1, bounds[1])))

    def chosen(column: int, probability: float, values: np.ndarray, neutral: float = 1.0) -> np.ndarray:
        on = (row[:, column] < probability).reshape(n, *[1] * (values.ndim - 1))
        return np.where(on, values, neutral)

    angles = chosen(0, strength.rotation, span(row[:, 3:6], (-1, 1)) * largest_angle(sides), 0.0)
    scale = chosen(1, strength.scaling, span(row[:, 2], SCALING))
    resolution = np.where(of[..., 8] < 0.5, span(of[..., 9], RESOLUTION), 1.0)[..., None].repeat(d, -1)
    if flat is not None:
        resolution[..., flat] = 1.0
    blur = np.where(of[..., :1] < 0.5, span(of[..., 1 : 1 + d], BLUR), 0.0)
    return Plan(
        matrices(angles, scale, sides), chosen(6, strength.noise, span(row[:, 7], NOISE), 0.0), chosen(8, strength.blur, blur, 0.0),
        chosen(9, strength.brightness, either_side(of[..., 4:6], FACTOR)), chosen(10, strength.contrast, either_side(of[..., 6:8], FACTOR)),
        chosen(11, strength.low_resolution, resolution), chosen(12, strength.inverted_gamma, either_side(of[..., 10:12], GAMMA)),
        chosen(13, strength.gamma, either_side(of[..., 12:14], GAMMA)), row[:, 14 : 14 + d] < strength.mirror,
    )


def thin_axis(sides: Sequence[int]) -> int | None:
    """The axis across which a patch is too thin to be turned; None where there is none."""
    return int(np.argmin(sides)) if len(sides) == 3 and max(sides) > ANISOTROPIC * min(sides) else None


def largest_angle(sides: Sequence[int]) -> float:
    """In radians: half a turn in a plane (15 degrees where it is oblong), 30 degrees about each axis of a volume."""
    if len(sides) == 3:
        return math.radians(180 if thin_axis(sides) is not None else 30)
    return math.radians(15 if max(sides) > OBLONG * min(sides) else 180)


def matrices(angles: np.ndarray, scale: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """(n, d, d): turns in each plane of two axes by `angles` (n, 3), times `scale` (n,). Planes of a thin axis are left out."""
    d, flat = len(sides), thin_axis(sides)
    planes = [(0, 1)] if d == 2 else [(1, 2), (0, 2), (0, 1)]
    matrix = np.eye(d)[None].repeat(len(angles), 0)
    for k, (a, b) in enumerate(planes):
        if flat in (a, b):
            continue
        turn = np.eye(d)[None].repeat(len(angles), 0)
        turn[:, a, a] = turn[:, b, b] = np.cos(angles[:, k])
        turn[:, a, b], turn[:, b, a] = -np.sin(angles[:, k]), np.sin(angles[:, k])
        matrix = turn @ matrix
    factors = scale[:, None].repeat(d, 1)
    if flat is not None:
        factors[:, flat] = 1.0
    return matrix * factors[:, None, :]


def apply(images: Tensor, labels: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """Does what was drawn."""
    images, labels = moved(images, plan.matrix, "bilinear"), moved(labels[:, None].float(), plan.matrix, "nearest")
    n, channels, *sides = images.shape
    noisy = np.flatnonzero(plan.noise)
    if len(noisy):
        at = send(noisy, images.device)
        some = images[at]
        deviation = some.flatten(2).std(2, correction=0) * numbers(plan.noise[noisy, None], some)
        field = torch.randn((len(noisy), 1, *sides), device=images.device)
        images = images.index_copy(0, at, some + stretched(deviation, some) * field)

    planes = images.reshape(n * channels, *sides)
    for operation, values, neutral in (
        (blurred, plan.blur, 0.0), (brightened, plan.brightness, 1.0), (contrasted, plan.contrast, 1.0), (coarsened, plan.resolution, 1.0),
        (lambda x, gamma: -bent(-x, gamma), plan.inverted_gamma, 1.0), (bent, plan.gamma, 1.0),
    ):
        table = values.reshape(n * channels, -1)
        rows = np.flatnonzero((table != neutral).any(1))
        if len(rows):
            at = send(rows, planes.device)
            planes = planes.index_copy(0, at, operation(planes[at], table[rows]))
    return flipped(planes.reshape(images.shape), plan.mirror), flipped(labels, plan.mirror)[:, 0].long()


def numbers(values: np.ndarray, like: Tensor) -> Tensor:
    return send(values.astype(np.float32), like.device)


def stretched(values: Tensor, like: Tensor) -> Tensor:
    """With axes of length 1 behind, to as many as `like` has."""
    return values.reshape(*values.shape, *[1] * (like.dim() - values.dim()))


def moved(images: Tensor, matrix: np.ndarray, mode: str) -> Tensor:
    """(B, C, *sides) read at matrix times the place from the centre; the first B of the matrices; mirrored at the border."""
    d = images.dim() - 2
    rows = np.flatnonzero((matrix[: len(images)] != np.eye(d)).any((1, 2)))
    if not len(rows):
        return images
    at, half = send(rows, images.device), np.array(images.shape[2:]) / 2
    # The grid's places run from -1 to 1 along each axis, the last axis first.
    theta = (matrix[rows] * half / half[:, None])[:, ::-1, ::-1]
    theta = np.concatenate([theta, np.zeros((len(rows), d, 1))], 2)
    some = images[at].contiguous()
    grid = F.affine_grid(numbers(theta, some), list(some.shape), align_corners=False)
    return images.index_copy(0, at, F.grid_sample(some, grid, mode, "reflection", align_corners=False))


def flipped(images: Tensor, mirror: np.ndarray) -> Tensor:
    """(B, C, *sides) with the axes of each image turned round where `mirror` (>= B, d) says so."""
    for axis in range(images.dim() - 2):
        flags = mirror[: len(images), axis]
        if flags.any():
            images = torch.where(stretched(send(flags, images.device), images), images.flip(2 + axis), images)
    return images


# Operations on planes (m, *sides), each with (m, ...) numbers


def blurred(planes: Tensor, deviations: np.ndarray, radius: int = BLUR_RADIUS) -> Tensor:
    """Gaussians of deviations (m, d) pixels, cut off at `radius`; border values are repeated outwards."""
    taps = np.arange(-radius, radius + 1)
    for axis in range(planes.dim() - 1):
        weights = np.exp(-0.5 * (taps / deviations[:, axis, None]) ** 2)
        kernel = numbers(weights / weights.sum(1, keepdims=True), planes)
        side = planes.shape[1 + axis]
        places = [torch.arange(side, device=planes.device).add_(int(tap)).clamp_(0, side - 1) for tap in taps]
        planes = sum((planes.index_select(1 + axis, place) * stretched(kernel[:, k], planes) for k, place in enumerate(places)),
                     planes.new_zeros(()))
    return planes


def brightened(planes: Tensor, factors: np.ndarray) -> Tensor:
    """Distances from the mean, times a factor (m, 1)."""
    mean = stretched(planes.flatten(1).mean(1), planes)
    return mean + (planes - mean) * stretched(numbers(factors[:, 0], planes), planes)


def contrasted(planes: Tensor, factors: np.ndarray) -> Tensor:
    """As `brightened`, kept within the least and the largest value."""
    values = planes.flatten(1)
    low, high = stretched(values.amin(1), planes), stretched(values.amax(1), planes)
    return torch.minimum(torch.maximum(brightened(planes, factors), low), high)


def coarsened(planes: Tensor, shares: np.ndarray) -> Tensor:
    """Read at fewer places (shares (m, d) of the sides, by nearest neighbour), then enlarged again linearly."""
    for axis in range(planes.dim() - 1):
        side = planes.shape[1 + axis]
        fewer = np.maximum(np.round(side * shares[:, axis, None]), 1)
        place = np.maximum((np.arange(side) + 0.5) * fewer / side - 0.5, 0)
        first = np.floor(place)

        def read(coarse: np.ndarray, axis: int = axis, side: int = side, fewer: np.ndarray = fewer, planes: Tensor = planes) -> Tensor:
            source = np.minimum(np.floor((coarse + 0.5) * side / fewer), side - 1).astype(np.int64)
            return torch.take_along_dim(planes, along(send(source, planes.device), axis, planes), 1 + axis)

        share = along(numbers(place - first, planes), axis, planes)
        planes = torch.lerp(read(first), read(np.minimum(first + 1, fewer - 1)), share)
    return planes


def along(table: Tensor, axis: int, planes: Tensor) -> Tensor:
    """(m, side) with its second axis where `axis` of the planes is."""
    shape = [1] * planes.dim()
    shape[0], shape[1 + axis] = table.shape
    return table.reshape(shape)


def bent(planes: Tensor, gammas: np.ndarray) -> Tensor:
    """A power (m, 1) of the values between the least and the largest; mean and deviation are then restored."""
    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        values = x.flatten(1)
        return stretched(values.mean(1), x), stretched(values.std(1), x)

    values = planes.flatten(1)
    low, high = stretched(values.amin(1), planes), stretched(values.amax(1), planes)
    width = (high - low).clamp(min=1e-7)
    curve = ((planes - low) / width).pow(stretched(numbers(gammas[:, 0], planes), planes)) * width
    (mean, deviation), (mean_now, deviation_now) = statistics(planes), statistics(curve)
    return (curve - mean_now) * (deviation / deviation_now.clamp(min=1e-7)) + mean
