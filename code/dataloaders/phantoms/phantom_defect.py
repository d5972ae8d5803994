"""Draws `PhantomDefect`: grey photographs of technical surfaces with scratches, spots and inclusions, each an object of its own.

A surface is a texture (brushed, cast, woven or ground), lit unevenly. A scratch is a thin bent line with a burr of the other brightness
beside it; a spot is a round stain with a soft edge, darker or brighter; an inclusion is a cluster of dark grains with a sharp edge, drawn
out along one direction. Dust and faint shadows, which are no defects, lie everywhere, so that brightness alone does not tell.

The arrays of a seed have the same bytes on every machine, as those of `phantom` and by the same means.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from dataloaders.phantoms.phantom import Canvas, Dice, Star, wobble

VERSION = 1
STREAM = 7
SIDE = 96
CLASSES = ("background", "scratch", "spot", "inclusion")
UNIT = 64 / SIDE
"""Lengths of shapes are in 1/64 of the side; this is one pixel."""

Drawn = tuple[np.ndarray, np.ndarray]
"""(H, W) how much of each pixel a defect covers, in 0..1, and (H, W) what it adds to the brightness."""


def draw_surface(seed: int, part: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W) uint8 each: a photograph, its class ids, and its instances, counted from 1. One in eight has no defect."""
    dice = Dice(STREAM, seed, part, number)
    canvas = Canvas(SIDE, SIDE)
    canvas.image = surface(dice, canvas)
    ids, instances = np.zeros((2, SIDE, SIDE), np.uint8)
    for _ in range(0 if dice.chance(0.125) else dice.count(1, 4)):
        kind = dice.count(1, 3)
        for _ in range(8):
            cover, added = (scratch, spot, inclusion)[kind - 1](dice, canvas)
            inside = cover >= 0.5
            near = gaussian_filter(inside.astype(float), 1.5) > 0.02
            if inside.sum() >= 6 and not instances[near].any():
                canvas.image += added
                ids[inside], instances[inside] = kind, instances.max() + 1
                break
    dust(dice, canvas)
    sharp = gaussian_filter(canvas.image, dice(0.35, 0.6)) + dice(0.008, 0.02) * dice.complex_normal((SIDE, SIDE)).real
    return np.rint(np.clip(sharp, 0, 1) * 255).astype(np.uint8), ids, instances


def surface(dice: Dice, canvas: Canvas) -> np.ndarray:
    """(H, W) brightness of a flawless surface: a texture under uneven light."""
    make: Callable[[Dice, Canvas], np.ndarray] = (brushed, cast, woven, ground)[dice.count(0, 3)]
    texture = make(dice, canvas)
    texture *= dice(0.025, 0.06) / texture.std()
    angle, slope = dice(0, 2 * np.pi), dice(0.0, 0.16)
    light = dice(0.36, 0.64) + slope * (canvas.y * np.sin(angle) + canvas.x * np.cos(angle)) / 32
    blotches = gaussian_filter(dice.complex_normal((SIDE, SIDE)).real, dice(10, 18), mode="wrap")
    return light * (1 + texture / 0.5) + blotches * dice(0.0, 0.03) / blotches.std()


def brushed(dice: Dice, canvas: Canvas) -> np.ndarray:
    """Fine parallel lines in one of two directions, of several lengths."""
    noise = dice.complex_normal((SIDE, SIDE))
    along, across = dice(8, 22), dice(0.4, 0.8)
    lines = gaussian_filter(noise.real, (across, along), mode="wrap") + 0.5 * gaussian_filter(noise.imag, (across, 3), mode="wrap")
    return lines if dice.chance(0.5) else np.ascontiguousarray(lines.T)


def cast(dice: Dice, canvas: Canvas) -> np.ndarray:
    """Grains of two sizes."""
    noise = dice.complex_normal((SIDE, SIDE))
    fine, coarse = gaussian_filter(noise.real, dice(0.6, 1.0), mode="wrap"), gaussian_filter(noise.imag, dice(2, 4), mode="wrap")
    return fine / fine.std() + dice(0.3, 0.9) * coarse / coarse.std()


def woven(dice: Dice, canvas: Canvas) -> np.ndarray:
    """Warp and weft over and under each other, the threads a little uneven."""
    period, turn = dice(4, 7), dice(-0.2, 0.2)
    uneven = gaussian_filter(dice.complex_normal((SIDE, SIDE)), 6, mode="wrap")
    uneven *= 0.5 / uneven.std()
    u = (canvas.y * np.cos(turn) - canvas.x * np.sin(turn)) * 2 * np.pi / period + uneven.real
    v = (canvas.y * np.sin(turn) + canvas.x * np.cos(turn)) * 2 * np.pi / period + uneven.imag
    over = np.sin(u / 2) * np.sin(v / 2) > 0
    return np.where(over, np.abs(np.sin(u)), np.abs(np.sin(v))) + 0.25 * dice.complex_normal((SIDE, SIDE)).real


def ground(dice: Dice, canvas: Canvas) -> np.ndarray:
    """Two crossing sets of faint grooves, as a grinding wheel leaves them."""
    result = 0.35 * gaussian_filter(dice.complex_normal((SIDE, SIDE)).real, 0.6, mode="wrap")
    for _ in range(2):
        turn = dice(0, np.pi)
        across = canvas.y * np.cos(turn) + canvas.x * np.sin(turn)
        for _ in range(7):
            result = result + dice(0.05, 0.16) * np.sin(across * 2 * np.pi / dice(1.4, 5) + dice(0, 2 * np.pi))
    return result


def scratch(dice: Dice, canvas: Canvas) -> Drawn:
    """A thin line, bent a little, that tapers at its ends."""
    angle, length, bend = dice(0, np.pi), dice(14, 46), dice(-7, 7)
    y, x = dice(-24, 24), dice(-24, 24)
    t = np.linspace(-0.5, 0.5, 72)
    path_y = y + length * t * np.sin(angle) + bend * (0.25 - t * t) * np.cos(angle)
    path_x = x + length * t * np.cos(angle) - bend * (0.25 - t * t) * np.sin(angle)
    away = np.hypot(canvas.y[..., None] - path_y, canvas.x[..., None] - path_x)
    nearest = away.argmin(-1)
    half = UNIT * dice(0.75, 1.35) * np.sqrt(np.clip(1.08 - (2 * t[nearest]) ** 2, 0.05, 1))
    cover = np.clip(0.5 + (half - away.min(-1)) / UNIT, 0, 1)
    strength = dice(0.14, 0.34) * (1 if dice.chance(0.6) else -1)
    burr = np.roll(cover, (1, 1), (0, 1)) * np.clip(1 - cover, 0, 1)
    return cover, strength * (cover - 0.25 * burr)


def spot(dice: Dice, canvas: Canvas) -> Drawn:
    """A round stain with a soft edge, a little darker or brighter than the surface."""
    star = Star(dice(-26, 26), dice(-26, 26), dice(2.6, 6.5), wobble(dice, 0.16, 3))
    strength = dice(0.10, 0.2) * (-1 if dice.chance(0.6) else 1)
    cover, inner = canvas.coverage(star, dice(2.0, 3.5)), canvas.coverage(star.scaled(0.6), 4.0)
    return cover, strength * cover * (0.75 + 0.25 * inner)


def inclusion(dice: Dice, canvas: Canvas) -> Drawn:
    """A cluster of dark grains along one direction, rough inside and at its edge."""
    angle, y, x = dice(0, np.pi), dice(-25, 25), dice(-25, 25)
    grains = dice.count(3, 7)
    cover = np.zeros((SIDE, SIDE))
    along = 0.0
    for _ in range(grains):
        radius, aside = dice(1.0, 2.6), dice(-0.9, 0.9)
        grain = Star(y + along * np.sin(angle) + aside * np.cos(angle), x + along * np.cos(angle) - aside * np.sin(angle), radius,
                     wobble(dice, 0.5, 6))
        cover = np.maximum(cover, canvas.coverage(grain, 1.0))
        along += radius * dice(0.9, 1.4)
    rough = gaussian_filter(dice.complex_normal((SIDE, SIDE)).real, 0.7)
    return cover, -dice(0.16, 0.32) * cover * (1 + 0.3 * rough / rough.std())


def dust(dice: Dice, canvas: Canvas) -> None:
    """Specks smaller than any defect, and a shadow too faint and wide for one."""
    for _ in range(dice.count(2, 8)):
        speck = Star(dice(-31, 31), dice(-31, 31), UNIT * dice(0.4, 0.7))
        canvas.image += canvas.coverage(speck, 1.5) * dice(0.05, 0.2) * (1 if dice.chance(0.5) else -1)
    shadow = Star(dice(-30, 30), dice(-30, 30), dice(12, 24), wobble(dice, 0.2))
    canvas.image += canvas.coverage(shadow, 14.0) * dice(-0.05, 0.03)
