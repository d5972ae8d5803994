"""Strong views of images that are already augmented weakly: appearance changes, places stay, so predictions of both views can be compared.

Every number is drawn on the host from a NumPy generator, a fixed number a row (rejected boxes apart), so that row i never depends on the
rows after it; pixels change on the images' own device, one call a batch. Inputs stay as they are; rows that a probability leaves out
come back to the bit.

`mean` and `std` are those of the data set (`run.data.mean`, `run.data.std`): factors, grey levels and hues act on the pixel values before
that normalisation, so that a strength means the same on h5 slices in 0..1 and on normalised photographs. The range that values are kept
in is 0..1, widened to hold the image itself where it is scaled otherwise (own volumes with mean 0 and deviation 1).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey level (ITU-R BT.601)."""
Scale = Sequence[float] | None
Further = Callable[[Tensor, np.random.Generator, Scale, Scale], Tensor]


def color_jitter(images: Tensor, rng: np.random.Generator, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0,
                 hue: float = 0.0, probability: float = 1.0, mean: Scale = None, std: Scale = None) -> Tensor:
    """Brightness, contrast, saturation and hue of each image (B, C, H, W), in an order of its own, kept in range after each.

    A strength s draws a factor from U(max(0, 1 - s), 1 + s): of the values (brightness), of their distance from the image's mean grey
    level (contrast), of the colours' distance from grey (saturation). `hue` h turns the colour circle by U(-h, h) of a full turn, h <= 0.5.
    Saturation and hue need colours: on anything but three channels they change nothing, as in the published code (one channel: brightness
    and contrast are all there is). With other than three channels each channel has a mean level of its own.
    """
    n, channels = images.shape[:2]
    draws = rng.random((n, 9))
    strengths = np.array([brightness, contrast, saturation, hue])
    low = np.array([*np.maximum(0.0, 1 - strengths[:3]), -hue])
    factors = low + draws[:, 1:5] * (np.array([*(1 + strengths[:3]), hue]) - low)
    order = draws[:, 5:9].argsort(1)
    active = [k for k in range(4) if strengths[k] > 0 and (k < 2 or channels == 3)]
    rows = np.flatnonzero(draws[:, 0] < probability)
    if not active or not len(rows):
        return images

    at = on(images, rows)
    pixels = denormalised(images[at], mean, std)
    lowest, highest = limits(pixels)
    for turn in range(4):
        for k in active:
            mine = np.flatnonzero(order[rows, turn] == k)
            if len(mine):
                here = on(images, mine)
                span = highest[here] - lowest[here]
                unit = (pixels[here] - lowest[here]) / span
                changed = CHANGES[k](unit, on(images, factors[rows[mine], k]).view(-1, 1, 1, 1))
                pixels.index_copy_(0, here, changed.clamp(0, 1) * span + lowest[here])
    return images.clone().index_copy_(0, at, normalised(pixels, mean, std))


def gaussian_blur(images: Tensor, rng: np.random.Generator, sigma: tuple[float, float] = (0.1, 2.0), probability: float = 0.5) -> Tensor:
    """Each image (B, C, H, W) with probability `probability` blurred by a Gaussian of standard deviation U(*sigma) pixels.

    Cut off at three of the largest deviations; border pixels are repeated outwards.
    """
    draws = rng.random((len(images), 2))
    rows = np.flatnonzero(draws[:, 0] < probability)
    if not len(rows) or sigma[1] <= 0:
        return images
    deviations = sigma[0] + draws[rows, 1] * (sigma[1] - sigma[0])
    radius = int(np.ceil(3 * sigma[1]))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / np.maximum(deviations, 1e-6)[:, None]) ** 2)
    weights /= weights.sum(1, keepdims=True)
    at, (channels, height, width) = on(images, rows), images.shape[1:]
    kernels = on(images, weights).repeat_interleave(channels, 0)
    planes = images[at].reshape(1, -1, height, width)
    planes = F.pad(planes, (radius,) * 4, mode="replicate")
    planes = F.conv2d(planes, kernels[:, None, :, None], groups=len(kernels))
    planes = F.conv2d(planes, kernels[:, None, None, :], groups=len(kernels))
    return images.clone().index_copy_(0, at, planes.reshape(len(rows), channels, height, width))


def cutout(images: Tensor, rng: np.random.Generator, area: tuple[float, float] = (0.02, 0.4), aspect: tuple[float, float] = (0.3, 1 / 0.3),
           probability: float = 0.5, value: float = 0.0, mean: Scale = None, std: Scale = None) -> Tensor:
    """Each image (B, C, H, W) with probability `probability` with a box (`cutmix_boxes`) of the pixel value `value` (0: black)."""
    boxes = cutmix_boxes(rng, len(images), images.shape[2:], probability, area, aspect, images.device)
    return torch.where(boxes, normalised(torch.full_like(images[:1, :, :1, :1], value), mean, std), images)


def cutmix_boxes(rng: np.random.Generator, n: int, sides: Sequence[int], probability: float = 0.5, area: tuple[float, float] = (0.02, 0.4),
                 aspect: tuple[float, float] = (0.3, 1 / 0.3), device: torch.device | str = "cpu") -> Tensor:
    """(n, 1, *sides) bool, True inside a box; a row has one with probability `probability`, else none.

    A box covers U(*area) of the image or volume, is U(*aspect) times as high as wide, has whole pixels, and lies wholly inside: a box that
    does not fit is drawn anew, place and all (UniMatch's medical branch, 50 % of rows, 2 to 40 %, 0.3 to 1/0.3). The third side
    of a volume's box is the geometric mean of the other two (CrossMatch). Raises ValueError where a thousand boxes did not fit.
    """
    root = np.sqrt if len(sides) == 2 else np.cbrt
    starts, stops = np.zeros((2, n, len(sides)), np.int64)
    for row in np.flatnonzero(rng.random(n) < probability):
        for _ in range(1000):
            share = rng.uniform(*area)
            for side in sides:
                share *= side
            ratio = rng.uniform(*aspect)
            size = np.array([int(root(part)) for part in (share * ratio, share / ratio, share)[: len(sides)]])
            start = np.array([rng.integers(side) for side in sides])
            if (start + size <= sides).all():
                starts[row], stops[row] = start, start + size
                break
        else:
            raise ValueError(f"no box of area {area} and aspect {aspect} fits in {'x'.join(map(str, sides))} pixels")
    return inside(starts, stops, sides, device)


def beta_boxes(rng: np.random.Generator, n: int, sides: Sequence[int], alpha: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """(starts, stops) of a box an image, (n, axes) each, for `inside`: CutMix's, as AD-MT has them.

    A box has sqrt(1 - m) of each side, m ~ Beta(alpha, alpha) once for all images; it lies around a place drawn beyond the first eighth
    of each side, and is cut off at the border.
    """
    share = np.sqrt(1 - rng.beta(alpha, alpha))
    half = np.array([int(side * share) // 2 for side in sides])
    centres = np.stack([rng.integers(side // 8, side, n) for side in sides], 1)
    return np.maximum(centres - half, 0), np.minimum(centres + half, sides)


def inside(starts: np.ndarray, stops: np.ndarray, sides: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """(n, 1, *sides) bool, True from the starts (n, axes) to below the stops."""
    first, last = send(np.stack([starts, stops]), device)
    mask = torch.ones((1,) * (2 + len(sides)), dtype=torch.bool, device=device)
    for axis, side in enumerate(sides):
        place = torch.arange(side, device=device)
        along = (place >= first[:, axis, None]) & (place < last[:, axis, None])
        mask = mask & along.view(-1, 1, *(side if k == axis else 1 for k in range(len(sides))))
    return mask


def recoloured(images: Tensor, rng: np.random.Generator, jitter: tuple[float, float, float, float], blur: float = 0.0,
               holes: float = 0.0, mean: Scale = None, std: Scale = None, share: float = 1.0) -> Tensor:
    """FixMatch's strong view: `color_jitter` of a share of the images (B, C, H, W), `gaussian_blur` of another, `cutout` of a third.

    jitter: brightness, contrast, saturation, hue. blur, holes, share (of the jitter): the shares, 0 to 1.
    """
    changed = gaussian_blur(color_jitter(images, rng, *jitter, share, mean, std), rng, probability=blur)
    return cutout(changed, rng, probability=holes, mean=mean, std=std)


def grainy(images: Tensor, rng: np.random.Generator, specks: float = 0.2, noise: float = 0.4, mean: Scale = None,
           std: Scale = None) -> Tensor:
    """A share `specks` of the images (B, C, H, W) with 1 % of their pixels black, a share `noise` with Gaussian noise.

    Its variance is U(10, 50) squared grey levels, of 255 from the least to the largest value (UCC, as simEps's authors have it).
    """
    draws = rng.random((len(images), 3))
    for rows, change in ((np.flatnonzero(draws[:, 0] < specks), "specks"), (np.flatnonzero(draws[:, 1] < noise), "noise")):
        if not len(rows):
            continue
        at, (channels, height, width) = on(images, rows), images.shape[1:]
        pixels = denormalised(images[at], mean, std)
        lowest, highest = limits(pixels)
        if change == "specks":
            black = on(images, rng.random((len(rows), 1, height, width), np.float32) < 0.01)
            pixels = torch.where(black, lowest, pixels)
        else:
            deviations = np.sqrt(10 + 40 * draws[rows, 2])[:, None, None, None] / 255
            added = deviations * rng.standard_normal((len(rows), channels, height, width), np.float32)
            pixels = pixels + on(images, added.astype(np.float32)) * (highest - lowest)
            pixels = torch.minimum(torch.maximum(pixels, lowest), highest)
        images = images.index_copy(0, at, normalised(pixels, mean, std))
    return images


def cutmix_view(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """CutMix among the rows: (images, (box, partner)), each of B rows; in its box (`beta_boxes`) a row has the pixels of row `partner`."""
    n, sides = len(images), images.shape[2:]
    partner = on(images, rng.permutation(n))
    box = inside(*beta_boxes(rng, n, sides), sides, images.device)
    return torch.where(box, images[partner], images), (box, partner)


def without_colours(images: Tensor, rng: np.random.Generator, probability: float = 0.2, mean: Scale = None, std: Scale = None) -> Tensor:
    """Each image (B, 3, H, W) with probability `probability` as its grey levels; images of other channels stay."""
    rows = np.flatnonzero(rng.random(len(images)) < probability)
    if images.shape[1] != 3 or not len(rows):
        return images
    at = on(images, rows)
    return images.clone().index_copy_(0, at, normalised(grey(denormalised(images[at], mean, std)).expand(-1, 3, -1, -1), mean, std))


def recoloured_in_part(images: Tensor, rng: np.random.Generator, jitter: tuple[float, float, float, float], grey: float, blur: float,
                       mean: Scale = None, std: Scale = None) -> Tensor:
    """UniMatch's strong view: `color_jitter` of 80 % of the images (B, C, H, W), then `without_colours` and `gaussian_blur` of shares."""
    changed = without_colours(color_jitter(images, rng, *jitter, 0.8, mean, std), rng, grey, mean, std)
    return gaussian_blur(changed, rng, probability=blur)


def others_of(batch: Any, mix: str) -> tuple[Tensor, Tensor]:
    """(images (U, C, H, W), their map "inside" (U, H, W)) that strong views of a batch's unlabelled images show in boxes.

    mix: "shuffled" (another image of the batch), "other" (of a further draw, `batches(draws=2)`), "same" (the same image under another
    weak view, `batches(views=2)`).
    """
    if mix == "shuffled":
        return batch.unlabeled.roll(1, 0), batch.maps["inside"][batch.n_labeled :].roll(1, 0)
    rows = batch.mates[0] if mix == "other" else batch.views[0]
    return rows.images, rows.maps["inside"]


def pasted_view(images: Tensor, others: Tensor, rng: np.random.Generator, jitter: tuple[float, float, float, float], grey: float,
                blur: float, data: Any, further: Further | None = None) -> tuple[Tensor, Tensor]:
    """(`recoloured_in_part` of the images, with parts of the others, recoloured too, in boxes; the boxes, (B, 1, H, W) bool); `data` has
    mean and std. Half of the rows have a box (`cutmix_boxes`). `further`: what is done to both after that, such as `some_operations`."""
    box = cutmix_boxes(rng, len(images), images.shape[2:], device=images.device)
    seen, shown = (recoloured_in_part(x, rng, jitter, grey, blur, data.mean, data.std) for x in (images, others))
    if further is not None:
        seen, shown = (further(x, rng, data.mean, data.std) for x in (seen, shown))
    return torch.where(box, shown, seen), box


def mixed_view(images: Tensor, rng: np.random.Generator, mean: Scale = None, std: Scale = None) -> tuple[Tensor, Tensor, Tensor]:
    """The strong view of UniMatch's medical branch: (images, box, partner), all of B rows.

    Jitter (0.5, 0.5, 0.5, 0.25) with probability 0.8, blur with 0.5, and a `cutmix_boxes` with 0.5 that shows the pixels of row
    `partner`, another one of the batch. What was found in the weak views is to be mixed by box and partner too.
    """
    changed = gaussian_blur(color_jitter(images, rng, 0.5, 0.5, 0.5, 0.25, 0.8, mean, std), rng, (0.1, 2.0), 0.5)
    box = cutmix_boxes(rng, len(images), images.shape[2:], 0.5, device=images.device)
    partner = torch.arange(len(images), device=images.device).roll(int(rng.integers(1, max(len(images), 2))))
    return torch.where(box, changed[partner], changed), box, partner


def cutout_view(images: Tensor, labels: Tensor, rng: np.random.Generator, mean: Scale = None, std: Scale = None) -> tuple[Tensor, Tensor]:
    """The strong view of ABD: images (B, C, *sides), and the labels (n, *sides) of the first n of them.

    In half of the images a `cutmix_boxes` is filled with pixels that are 0 or 1 at random, and is background in the label; then all have
    a jitter (0.8, 0.8, 0.8, 0.2). A volume has one box for all its planes along the last axis, and the jitter's first two steps.
    """
    n, sides, volume = len(images), images.shape[2:], images.dim() == 5
    boxes = cutmix_boxes(rng, n, sides[:2], 0.5, device=images.device)
    boxes = boxes.unsqueeze(-1).expand(n, 1, *sides) if volume else boxes
    noise = on(images, rng.integers(0, 2, (n, 1, *sides), np.uint8)).to(images.dtype)
    cut = torch.where(boxes, normalised(noise, mean, std), images)
    labels = labels.masked_fill(boxes[: len(labels), 0], 0)
    if volume:
        return color_jitter(cut.flatten(3), rng, 0.8, 0.8).view_as(cut), labels
    return color_jitter(cut, rng, 0.8, 0.8, 0.8, 0.2, 1.0, mean, std), labels


def boxes_of_noise(images: Tensor, labels: Tensor, rng: np.random.Generator, probability: float = 0.5, mean: Scale = None,
                   std: Scale = None) -> tuple[Tensor, Tensor]:
    """ST++'s Cutout: each image (B, C, H, W) with probability `probability` with a `cutmix_boxes` of uniform 8-bit noise, a value a pixel
    and channel, which its label (B, H, W) ignores."""
    boxes = cutmix_boxes(rng, len(images), images.shape[2:], probability, device=images.device)
    noise = on(images, rng.integers(0, 255, images.shape, np.uint8)).to(images.dtype) / 255
    return torch.where(boxes, normalised(noise, mean, std), images), labels.masked_fill(boxes[:, 0], 255)


def with_strong_rows(batch: Any, names: Any, jitter: tuple[float, float, float, float], grey: float, blur: float, holes: float,
                     data: Any) -> Any:
    """The batch, in which images of these names, with their labels, are strong views: `recoloured_in_part`, then `boxes_of_noise`."""
    rows = on(batch.images, np.array([k for k, name in enumerate(batch.cases) if name in names], np.int64))
    if len(rows):
        seen = recoloured_in_part(batch.images[rows], batch.rng, jitter, grey, blur, data.mean, data.std)
        images, labels = boxes_of_noise(seen, batch.labels[rows], batch.rng, holes, data.mean, data.std)
        batch.images, batch.labels = batch.images.index_copy(0, rows, images), batch.labels.index_copy(0, rows, labels)
    return batch


# What each step of the jitter does to (B, C, H, W) values in 0..1, by a (B, 1, 1, 1) number; CTAugment uses them too


def with_brightness(unit: Tensor, factor: Tensor | float) -> Tensor:
    return unit * factor


def with_contrast(unit: Tensor, factor: Tensor | float) -> Tensor:
    level = grey(unit).mean((2, 3), keepdim=True) if unit.shape[1] == 3 else unit.mean((2, 3), keepdim=True)
    return unit * factor + (1 - factor) * level


def with_saturation(unit: Tensor, factor: Tensor | float) -> Tensor:
    return unit * factor + (1 - factor) * grey(unit)


def with_hue(unit: Tensor, turn: Tensor) -> Tensor:
    """Colours by hue, saturation and value (Smith, SIGGRAPH 1978); hue turned."""
    (highest, which), lowest = unit.max(1, keepdim=True), unit.amin(1, keepdim=True)
    chroma = highest - lowest
    red, green, blue = unit.split(1, 1)
    sixths = torch.where(which == 0, green - blue, torch.where(which == 1, blue - red, red - green))
    angle = sixths / torch.where(chroma > 0, chroma, 1) + 2 * which + 6 * turn
    far = (angle + constant((5.0, 3.0, 1.0), angle)).remainder(6)
    return highest - chroma * torch.minimum(far, 4 - far).clamp(0, 1)


CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (with_brightness, with_contrast, with_saturation, with_hue)


def grey(unit: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    return (unit * constant(GREY, unit)).sum(1, keepdim=True)


# Between the images of a batch and pixel values


def denormalised(images: Tensor, mean: Scale, std: Scale) -> Tensor:
    """Pixel values, 0..1 where the data set has mean and std."""
    if mean is None or std is None:
        return images
    return images * constant(std, images) + constant(mean, images)


def normalised(pixels: Tensor, mean: Scale, std: Scale) -> Tensor:
    """The inverse of `denormalised`."""
    if mean is None or std is None:
        return pixels
    return (pixels - constant(mean, pixels)) / constant(std, pixels)


def limits(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1, 1, 1) each: 0 and 1, or the image's own least and largest value where they lie further out."""
    return pixels.amin((1, 2, 3), keepdim=True).clamp(max=0), pixels.amax((1, 2, 3), keepdim=True).clamp(min=1)


def send(array: np.ndarray, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """A small host array on a device, without waiting for it where it can be pinned; rounded to `dtype`, if given, before it is sent."""
    return _sent(torch.from_numpy(np.ascontiguousarray(array)).to(dtype=dtype), torch.device(device))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def on(images: Tensor, array: np.ndarray) -> Tensor:
    """A small host array on the images' device; fractions in the images' precision."""
    return send(array, images.device, images.dtype if array.dtype.kind == "f" else None)


def constant(numbers: Sequence[float], like: Tensor) -> Tensor:
    """(1, C, 1, ...): a number a channel, in the precision and on the device of `like` (B, C, ...), where it is sent once."""
    return _constant(tuple(numbers), like.dtype, like.device).view(1, -1, *[1] * (like.dim() - 2))


@lru_cache(maxsize=64)
def _constant(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return _sent(torch.tensor(numbers, dtype=dtype), device)
