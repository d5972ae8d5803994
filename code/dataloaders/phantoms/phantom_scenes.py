"""Drawn photographs of coloured things on a ground: synthetic, of several sizes, with an ignored line around every thing.

A thing's class is its shape and its pattern; colours overlap between classes, so that colour alone does not tell them apart.
"""
from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dataloaders.contours import borders

VERSION = 1
CLASSES = ("background", "ball", "box", "tree", "star", "ring")
HUES = ((0.00, 0.14), (0.50, 0.68), (0.22, 0.40), (0.08, 0.22), (0.62, 0.80))
"""Of each class behind the background: from, to, in turns of the colour circle."""
IGNORED = 255
SIDES = (72, 145)
"""From, below: sides of an image in pixels."""


def draw_scene(seed: int, part: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 photograph and (H, W) uint8 class ids of one scene; 255 lies around things, one pixel to both sides."""
    rng = np.random.default_rng([seed, part, number])
    height, width = (int(side) for side in rng.integers(*SIDES, 2))
    picture = Image.fromarray(ground(rng, height, width))
    ids, things = Image.new("L", (width, height)), Image.new("I", (width, height))
    for thing in range(1, int(rng.integers(3, 8))):
        kind = int(rng.integers(1, len(CLASSES)))
        size = float(rng.uniform(0.14, 0.34)) * min(height, width)
        centre = (float(rng.uniform(0.1, 0.9)) * width, float(rng.uniform(0.1, 0.9)) * height)
        mask = Image.new("L", (width, height))
        shape(ImageDraw.Draw(mask), CLASSES[kind], centre, size, float(rng.uniform(0, 2 * np.pi)))
        picture.paste(Image.fromarray(pattern(rng, kind, height, width)), mask=mask)
        ids.paste(kind, mask=mask)
        things.paste(thing, mask=mask)
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
    noisy = blurred * rng.uniform(0.7, 1.15) + rng.normal(0, 6, blurred.shape).astype(np.float32)
    return np.clip(noisy, 0, 255).astype(np.uint8), np.where(borders(np.asarray(things)), IGNORED, np.asarray(ids)).astype(np.uint8)


def ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A slope between two dull colours, with coarse blotches."""
    first, second = (np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.3, 0.8))) for _ in range(2))
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width] / max(height, width)
    slope = 0.5 + 0.7 * ((x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn))
    blotches = Image.fromarray(rng.uniform(-0.12, 0.12, (8, 8)).astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    colours = first + np.clip(slope, 0, 1)[..., None] * (second - first) + np.asarray(blotches)[..., None]
    return (np.clip(colours, 0, 1) * 255).astype(np.uint8)


def pattern(rng: np.random.Generator, kind: int, height: int, width: int) -> np.ndarray:
    """(H, W, 3) what a thing of a class is made of: a colour, shaded, with stripes across or along, dots, or nothing."""
    colour = np.array(colorsys.hsv_to_rgb(rng.uniform(*HUES[kind - 1]), rng.uniform(0.5, 0.95), rng.uniform(0.5, 0.95)))
    y, x = np.mgrid[:height, :width]
    period = rng.uniform(5, 9)
    waves = (1.0, np.sin(2 * np.pi * x / period), np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period),
             np.sin(2 * np.pi * y / period), 1.0)
    light = 0.85 + 0.15 * np.broadcast_to(np.asarray(waves[kind - 1]), (height, width))
    return (np.clip(light[..., None] * colour, 0, 1) * 255).astype(np.uint8)


def shape(draw: ImageDraw.ImageDraw, name: str, centre: tuple[float, float], size: float, turn: float) -> None:
    """Fills the outline of a thing with 255."""
    (x, y), r = centre, size / 2
    if name in ("ball", "ring"):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        if name == "ring":
            draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=0)
    elif name == "box":
        draw.polygon(corners(centre, r, turn, 4), fill=255)
    elif name == "tree":
        draw.polygon([(x, y - r), (x + 0.7 * r, y + 0.5 * r), (x - 0.7 * r, y + 0.5 * r)], fill=255)
        draw.rectangle((x - 0.18 * r, y + 0.5 * r, x + 0.18 * r, y + r), fill=255)
    else:
        outer, inner = corners(centre, r, turn, 5), corners(centre, 0.42 * r, turn + np.pi / 5, 5)
        draw.polygon([corner for pair in zip(outer, inner) for corner in pair], fill=255)


def corners(centre: tuple[float, float], radius: float, turn: float, count: int) -> list[tuple[float, float]]:
    """Of a regular polygon."""
    angles = turn + 2 * np.pi * np.arange(count) / count
    return [(centre[0] + radius * float(np.cos(a)), centre[1] + radius * float(np.sin(a))) for a in angles]
