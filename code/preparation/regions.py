"""What annotation tools mean by a region: polygons, ellipses, and run lengths of three kinds, as pixels.

A pixel belongs to an outline when its centre lies in it; (0, 0) is the upper left corner of the upper left pixel, as COCO, LabelMe, VIA,
Label Studio and ImageJ count. Two parts of one region are united.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CORNERS = 64
"""Of the polygon by which an ellipse is drawn."""


class Wrong(Exception):
    """What is wrong with a region, as the end of a sentence that names it."""


@dataclass(frozen=True)
class Region:
    """One object, or a part of one."""

    label: str
    where: str
    """How a person finds it in the file: "annotation 17"."""
    outlines: tuple[np.ndarray, ...] = ()
    """(N, 2) corners (x, y) each."""
    mask: np.ndarray | None = None
    """(h, w) bool in place of outlines."""
    corner: tuple[int, int] = (0, 0)
    """(x, y) of the mask's first pixel in the image."""


def painted(region: Region, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the region's pixels. Raises `Wrong` where it lies outside, or is a mask of another size."""
    from skimage.draw import polygon  # here alone: it takes a second to load, and no other command needs it

    found = np.zeros(size, bool)
    if region.mask is not None:
        x, y = region.corner
        height, width = region.mask.shape
        if x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
            raise Wrong(f"its mask of {width}x{height} at ({x}, {y}) does not fit into the image of {size[1]}x{size[0]}")
        found[y : y + height, x : x + width] = region.mask
        return found
    for outline in region.outlines:
        if (outline.max(0) < 0).any() or (outline.min(0) > size[::-1]).any():
            x, y = outline.min(0)
            raise Wrong(f"it lies outside the image of {size[1]}x{size[0]} (x from {x:g}, y from {y:g})")
        found[polygon(outline[:, 1] - 0.5, outline[:, 0] - 0.5, size)] = True
    return found


def outline_of(points: Any) -> np.ndarray:
    """(N, 2) of [[x, y], ...] or [x, y, x, y, ...]. Raises `Wrong`."""
    try:
        array = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        raise Wrong("its points are no numbers") from None
    if array.ndim == 1 and len(array) % 2 == 0:
        array = array.reshape(-1, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise Wrong(f"its points have the shape {array.shape}; expected pairs x, y")
    if len(array) < 3:
        raise Wrong(f"an outline of {len(array)} points; expected 3 or more")
    if not np.isfinite(array).all():
        raise Wrong("a coordinate is not finite")
    return array


def rectangle(x: float, y: float, width: float, height: float, degrees: float = 0.0) -> np.ndarray:
    """Corners of a rectangle that is turned about its upper left corner, clockwise."""
    turn = math.radians(degrees)
    across = np.array([math.cos(turn), math.sin(turn)]) * width
    down = np.array([-math.sin(turn), math.cos(turn)]) * height
    start = np.array([x, y], np.float64)
    return outline_of(np.stack([start, start + across, start + across + down, start + down]))


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> np.ndarray:
    """Corners on an ellipse about (x, y), turned clockwise."""
    angles = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    turn = math.radians(degrees)
    along, across = radius_x * np.cos(angles), radius_y * np.sin(angles)
    points = np.stack([x + along * math.cos(turn) - across * math.sin(turn), y + along * math.sin(turn) + across * math.cos(turn)], 1)
    return outline_of(points)


def from_runs(counts: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of COCO's run lengths: column by column, off and on in turn, off first. Raises `Wrong`."""
    runs = np.asarray(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs.size and runs.min() < 0):
        raise Wrong("its run lengths are no whole numbers from 0 on")
    total = int(runs.sum(dtype=np.float64))
    if total != size[0] * size[1]:
        raise Wrong(f"its run lengths sum to {total}, and the image has {size[0]} x {size[1]} = {size[0] * size[1]} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[1], size[0]).T


def counts_of(text: str) -> list[int]:
    """Run lengths of COCO's compressed string: five bits a character, from the second pair on differences to the one but last."""
    counts: list[int] = []
    value, shift = 0, 0
    for character in text.encode("latin-1", "replace"):
        bits = character - 48
        if not 0 <= bits < 64:
            raise Wrong(f"its run lengths hold the character {chr(character)!r}, which the packed form has not")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise Wrong("its run lengths are cut off")
    return counts


def from_brush(numbers: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of Label Studio's brush: bytes of a packed RGBA picture, of which the alpha is the mask. Raises `Wrong`.

    A bit stream (github.com/thi-ng/umbrella, rle-pack): 32 bits: how many values; 5: their width less 1; four times 4: widths of
    counts less 1. Then, again and again: 1 bit, whether one value is repeated; 2, which width; a count less 1; the value, or as many.
    """
    try:
        bits = np.unpackbits(np.asarray(numbers, np.uint8))
    except (TypeError, ValueError, OverflowError):
        raise Wrong("its rle is no list of bytes") from None
    place = 0

    def take(width: int) -> int:
        nonlocal place
        part = bits[place : place + width]
        if len(part) < width:
            raise Wrong("its rle is cut off")
        place += width
        value = 0
        for bit in part.tolist():
            value = 2 * value + bit
        return value

    count, wanted = take(32), 4 * size[0] * size[1]
    if count != wanted:
        raise Wrong(f"its rle holds {count} values; expected {wanted}, four for each of {size[1]} x {size[0]} pixels")
    width = take(5) + 1
    if width > 8:
        raise Wrong(f"its rle has values of {width} bits; expected 8 at most")
    widths = [take(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.uint8)
    done = 0
    while done < count:
        repeated = take(1)
        more = take(widths[take(2)]) + 1
        if done + more > count:
            raise Wrong("its rle has more values than it says")
        if repeated:
            values[done : done + more] = take(width)
        else:
            part = bits[place : place + more * width]
            if len(part) < more * width:
                raise Wrong("its rle is cut off")
            values[done : done + more] = part.reshape(more, width) @ (1 << np.arange(width)[::-1])
            place += more * width
        done += more
    return values.reshape(*size, 4)[..., 3] > 127
