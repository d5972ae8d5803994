"""Pictures of predictions: contours and colours over images. Without matplotlib, which takes seconds to load: training starts with this."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_erosion

COLOURS = np.array(
    [(0, 0, 0), (230, 75, 53), (77, 187, 213), (0, 160, 135), (243, 155, 46), (132, 94, 194), (126, 97, 72), (220, 0, 120), (60, 84, 136),
     (145, 209, 194), (255, 214, 0)], np.uint8,
)
"""A colour a class, background first; more classes have the same ones again, darker, then lighter."""


def grey(image: np.ndarray) -> np.ndarray:
    """(C, H, W) pixels of any range -> (H, W, 3) uint8; one channel stretched to its 1st and 99th percentile."""
    if image.dtype == np.uint8 and len(image) == 3:
        return np.ascontiguousarray(np.moveaxis(image, 0, -1))
    plane = image[0].astype(np.float32)
    low, high = np.percentile(plane, (1, 99))
    plane = np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1)
    return np.repeat((255 * plane).astype(np.uint8)[..., None], 3, 2)


def palette() -> list[int]:
    """The colours of class ids 0 to 255 as Pillow's palettes have them; 255 (ignored) is grey."""
    return [*np.concatenate([colour_of(c) for c in range(255)]).tolist(), 150, 150, 150]


def colour_of(c: int) -> np.ndarray:
    """(3,) uint8."""
    turn, place = divmod(max(c - 1, 0), len(COLOURS) - 1)
    colour = COLOURS[place + 1 if c else 0]
    if not turn:
        return colour
    return (0.55 * colour.astype(np.float64) + (0, 115)[(turn + 1) % 2]).astype(np.uint8)


def overlay(image: np.ndarray, labels: np.ndarray, filled: float = 0.35) -> np.ndarray:
    """(C, H, W) pixels and (H, W) class ids -> (H, W, 3) uint8: each class tinted, with its outline drawn. 255 is hatched grey."""
    picture = grey(image).astype(np.float32)
    for c in np.unique(labels):
        if c == 0:
            continue
        colour = np.array((150, 150, 150)) if c == 255 else colour_of(int(c)).astype(np.float32)
        inside = labels == c
        picture[inside] = (1 - filled) * picture[inside] + filled * colour
        picture[inside & ~binary_erosion(inside)] = colour
    return picture.round().astype(np.uint8)


def side_by_side(panels: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Pictures of equal height in a row, parted by white."""
    height = max(panel.shape[0] for panel in panels)
    row = []
    for panel in panels:
        padded = np.full((height, panel.shape[1], 3), 255, np.uint8)
        padded[: panel.shape[0]] = panel
        row += [padded, np.full((height, gap, 3), 255, np.uint8)]
    return np.concatenate(row[:-1], 1)
