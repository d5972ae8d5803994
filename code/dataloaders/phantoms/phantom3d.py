"""Draws `Phantom3D`: synthetic volumes of a left atrium, so that everything in 3D runs on a machine without data.

A volume is painted from the back to the front: flesh, lungs, spine, neighbouring chambers and vessels with blood as bright as the
atrium's, last the atrium with its veins and appendage. Lengths are mm, axes x (to the left), y (to the back), z (up). Where the
reference ends, nothing is seen: at the mitral valve a membrane thinner than a voxel, in the veins a rule (some mm behind the mouth).

The arrays of a seed have the same bytes on every machine, as those of `phantom.py` and for the same reasons.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from dataloaders.phantoms.phantom import LEVELS, Dice

VERSION = 1
"""Of the drawing: a change of any voxel raises it, so that `ensure` refuses what an older one left."""

STREAM = 3

Point = tuple[float, float, float]
Window = tuple[slice, ...]
WHOLE: Window = (slice(None),) * 3
MARGIN_MM = 8.0
"""Room around a shape for what bends it, for its wall and for corners that are filled."""
OSTIUM_MM = 7.0
"""How far the reference follows a vein beyond the body of the atrium."""


@dataclass(frozen=True)
class Ellipsoid:
    """Half-axes `radii` mm, turned by `turn` radians in the plane of x and y, `tilt` in that of y and z."""

    centre: Point
    radii: Point
    turn: float = 0.0
    tilt: float = 0.0


@dataclass(frozen=True)
class Tube:
    """A bent vessel: from `start` along `direction` (unit length) for `length`, bent towards `bend` (mm at its end)."""

    start: Point
    direction: Point
    length: float
    radius: float
    bend: Point = (0.0, 0.0, 0.0)


class Canvas:
    """A volume while it is painted: intensities (X, Y, Z), and where its voxels lie in mm, bent by slow waves so that no shape is exact."""

    def __init__(self, shape: tuple[int, int, int], spacing: np.ndarray, dice: Dice):
        self.image = np.zeros(shape)
        self.softness = float(spacing.max())
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)]
        self.straight = np.meshgrid(*axes, indexing="ij", sparse=True)
        self.points = np.empty((3, *shape))
        for k, axis in enumerate(self.straight):
            self.points[k] = axis + wave(self.straight, dice, 2, 1.6, 0.16)

    def window(self, shape: Ellipsoid | Tube) -> Window:
        """The box outside which a shape, its wall and its edge change nothing."""
        if isinstance(shape, Ellipsoid):
            radii = (max(shape.radii),) * 3 if shape.turn or shape.tilt else shape.radii
            sides = [(c - r, c + r) for c, r in zip(shape.centre, radii)]
        else:
            ends = [(s, s + shape.length * u + b) for s, u, b in zip(shape.start, shape.direction, shape.bend)]
            sides = [(min(e) - shape.radius - abs(b), max(e) + shape.radius + abs(b)) for e, b in zip(ends, shape.bend)]
        return tuple(slice(*np.searchsorted(axis.ravel(), (low - MARGIN_MM, high + MARGIN_MM)))
                     for axis, (low, high) in zip(self.straight, sides))

    def distance(self, shape: Ellipsoid | Tube, window: Window = WHOLE) -> np.ndarray:
        """mm to the surface for the voxels of a window, negative inside; exact enough near it."""
        points = self.points[(slice(None), *window)]
        if isinstance(shape, Ellipsoid):
            d = points - np.reshape(shape.centre, (3, 1, 1, 1))
            x, y = rotated(d[0], d[1], shape.turn)
            y, z = rotated(y, d[2], shape.tilt)
            squares = [(v / r) ** 2 for v, r in zip((x, y, z), shape.radii)]
            inner = np.sqrt(sum(squares))
            slope = np.sqrt(sum(v / r**2 for v, r in zip(squares, shape.radii)))
            return inner * (inner - 1) / np.maximum(slope, 1e-6)
        d = points - np.reshape(shape.start, (3, 1, 1, 1))
        along = np.clip(sum(u * v for u, v in zip(shape.direction, d)), 0, shape.length)
        bent = (along / shape.length) ** 2
        squares = [(v - along * u - bent * b) ** 2 for v, u, b in zip(d, shape.direction, shape.bend)]
        return np.sqrt(sum(squares)) - shape.radius

    def add(self, shape: Ellipsoid | Tube, *layers: tuple[float, float], softness: float = 1.0) -> None:
        """Paints a shape in layers (mm by which it is grown, intensity), the first one farthest back."""
        window = self.window(shape) if softness == 1 else WHOLE
        distance = self.distance(shape, window)
        for grown, intensity in layers:
            self.paint(distance - grown, intensity, softness, window)

    def paint(self, distance: np.ndarray, intensity: float | np.ndarray, softness: float = 1.0, window: Window = WHOLE) -> None:
        """Covers what lies inside a surface; the edge is `softness` voxels wide."""
        part = self.image[window]
        part += np.clip(0.5 - distance / (self.softness * softness), 0, 1) * (intensity - part)


def wave(axes: Sequence[np.ndarray] | np.ndarray, dice: Dice, count: int, amplitude: float, frequency: float) -> np.ndarray:
    """Sum of `count` plane waves of random direction, `frequency` radians a mm at most."""
    total: np.ndarray = np.zeros(())
    for _ in range(count):
        phase = sum(axis * dice(-frequency, frequency) for axis in axes)
        total = total + dice(0.3, 1) * amplitude * np.sin(phase + dice(0, 2 * np.pi))
    return total


def rotated(u: np.ndarray, v: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)


def merged(a: np.ndarray, b: np.ndarray, width: float = 4.0) -> np.ndarray:
    """Distance to the union of two shapes whose corner is filled over `width` mm."""
    mix = np.maximum(width - np.abs(a - b), 0) / width
    return np.minimum(a, b) - mix * mix * width / 4


def unit(x: float, y: float, z: float) -> Point:
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def shifted(start: Point, by: Point, factor: float = 1.0) -> Point:
    x, y, z = (a + factor * b for a, b in zip(start, by))
    return x, y, z


def around(dice: Dice, start: Point, x: float, y: float, z: float, spread: float) -> Point:
    """A point at an offset from `start` that varies by `spread` in each direction."""
    return start[0] + x + dice(-spread, spread), start[1] + y + dice(-spread, spread), start[2] + z + dice(-spread, spread)


def tissues(dice: Dice) -> dict[str, float]:
    """Mean intensities: from dim to bright blood, with neighbours a little darker or brighter than the atrium."""
    flesh = dice(0.2, 0.42)
    blood = flesh + dice(0.16, 0.5)
    return {
        "flesh": flesh, "blood": blood, "wall": flesh * dice(0.6, 1.1), "lung": dice(0.02, 0.14), "bone": dice(0.1, 0.5),
        "fat": dice(0.25, 0.7), "right": blood * dice(0.78, 1.12), "ventricle": blood * dice(0.82, 1.1), "aorta": blood * dice(0.85, 1.15),
        "artery": blood * dice(0.8, 1.12), "muscle": flesh * dice(0.65, 1.15),
    }


def paint_surroundings(canvas: Canvas, dice: Dice, heart: Point, body: Ellipsoid, tissue: dict[str, float]) -> None:
    """Lungs with their vessels, spine, the other chambers and the great vessels around the atrium."""
    rx, ry, rz = body.radii
    canvas.image[:] = tissue["fat"]
    chest = Ellipsoid(heart, (rx + dice(24, 40), ry + dice(22, 34), rz + dice(30, 50)))
    canvas.add(chest, (0, tissue["flesh"]), softness=6)
    for side in (-1, 1):
        lung = Ellipsoid(around(dice, heart, side * (rx + 24), 8, 4, 5), (dice(15, 23), dice(26, 42), dice(34, 52)), side * dice(0, 0.4))
        canvas.add(lung, (0, tissue["lung"]), softness=2)
        for _ in range(dice.count(2, 5)):
            place, direction = around(dice, heart, side * (rx + 20), 6, 0, 14), unit(dice(-1, 1), dice(-1, 1), dice(-1, 1))
            canvas.add(Tube(place, direction, dice(12, 34), dice(1.0, 2.6)), (0, tissue["artery"] * dice(0.6, 1.1)))
    canvas.add(Tube(around(dice, heart, 0, ry + 28, -60, 5), (0, 0, 1), 120, dice(13, 17)), (0, tissue["bone"]))

    ventricle = Ellipsoid(around(dice, heart, rx * 0.8, -ry - 17, -rz * 0.8 - 8, 3), (dice(20, 26), dice(18, 24), dice(20, 28)),
                          dice(-0.5, 0.5), dice(-0.5, 0.5))
    canvas.add(ventricle, (0, tissue["muscle"]), (-dice(5, 9), tissue["ventricle"]))
    inflow = Tube(shifted(heart, (rx * 0.25, -ry * 0.55, -rz * 0.35)), unit(0.45, -1, -0.6), dice(16, 24), dice(9, 12))
    canvas.add(inflow, (1.5, tissue["muscle"]), (0, tissue["ventricle"]))

    right = Ellipsoid(around(dice, heart, -rx * 0.95 - 8, -ry - 8, -4, 4), (dice(13, 19), dice(13, 20), dice(15, 24)), dice(-0.6, 0.6))
    canvas.add(right, (1.5, tissue["wall"]), (0, tissue["right"]))
    great = [
        (around(dice, heart, -rx - 3, -2, 8, 4), unit(dice(-0.15, 0.15), dice(-0.15, 0.15), 1), 70.0, dice(5.5, 8.5), "right"),
        (around(dice, heart, -4, -ry - 11, 2, 4), unit(dice(-0.2, 0.2), dice(-0.2, 0.2), 1), 70.0, dice(8.5, 12), "aorta"),
        (around(dice, heart, rx * 0.5 + 7, ry + 12, -60, 5), unit(dice(-0.1, 0.1), dice(-0.1, 0.1), 1), 120.0, dice(7, 10.5), "aorta"),
        (around(dice, heart, -34, 0, rz + 10, 3), unit(1, dice(-0.2, 0.2), dice(-0.1, 0.1)), 70.0, dice(5.5, 8.5), "artery"),
    ]
    for start, direction, length, radius, name in great:
        canvas.add(Tube(start, direction, length, radius, (dice(-5, 5), dice(-5, 5), 0)), (1.2, tissue["wall"]), (0, tissue[name]))
    gullet = Tube(around(dice, heart, 5, ry + 7, -60, 4), (0, 0, 1), 120, dice(3.5, 5.5))
    canvas.add(gullet, (0, tissue["muscle"]), (-2.5, tissue["muscle"] * dice(0.3, 1.4)))


def veins(dice: Dice, body: Ellipsoid) -> list[tuple[Tube, Tube]]:
    """Pulmonary veins, two on each side or nearly, each as it is and as far as the reference follows it."""
    rx, ry, rz = body.radii
    pairs = []
    for side in (-1, 1):
        common = dice.chance(0.15)
        for up in (0.0,) if common else (1.0, -1.0):
            direction = unit(side, dice(0.15, 0.65), up * dice(0.2, 0.6) + dice(-0.1, 0.1))
            inside = (side * rx * 0.45, ry * dice(0.1, 0.4), up * rz * dice(0.3, 0.5))
            radius = dice(5.5, 7.5) if common else dice(3.2, 5.4)
            bend = (0.0, dice(-4, 10), up * dice(-3, 8))
            start = shifted(body.centre, inside)
            # The mouth: where the axis leaves an ellipsoid, by the larger root of |start + t direction| = 1 in units of its half-axes.
            p, u = np.array(inside) / body.radii, np.array(direction) / body.radii
            a, b, c = float(u @ u), float(u @ p), float(p @ p) - 1
            mouth = (-b + math.sqrt(b * b - a * c)) / a
            length, followed = mouth + dice(18, 36), mouth + OSTIUM_MM
            share = (followed / length) ** 2
            whole = Tube(start, direction, length, radius, bend)
            pairs.append((whole, Tube(start, direction, followed, radius, (bend[0] * share, bend[1] * share, bend[2] * share))))
    return pairs


def paint_atrium(canvas: Canvas, dice: Dice, body: Ellipsoid, tissue: dict[str, float]) -> np.ndarray:
    """Paints the atrium and returns its reference, (X, Y, Z) uint8."""
    rx, ry, rz = body.radii
    place = around(dice, body.centre, rx * 0.85, -ry * 0.7, rz * 0.55, 2)
    appendage = Ellipsoid(place, (dice(5, 9), dice(7, 12), dice(4, 7)), dice(-0.8, 0.8), dice(-0.6, 0.6))
    cavity = merged(canvas.distance(body), canvas.distance(appendage), 5.0)
    blood, reference = cavity, cavity.copy()
    for whole, followed in veins(dice, body):
        window = canvas.window(whole)
        blood[window] = merged(blood[window], canvas.distance(whole, window))
        reference[window] = merged(reference[window], canvas.distance(followed, window))
    wall = dice(1.2, 2.6)
    scar = np.maximum(wave(canvas.points, dice, 3, 1.0, 0.2) - dice(0.4, 1.6), 0) * dice(0, 0.7)
    # The mitral valve is a membrane: towards the ventricle the wall is thinner than a voxel.
    x, y, z = (canvas.points[k] - body.centre[k] for k in range(3))
    opening = (x - rx * 0.3) ** 2 + (z + rz * 0.35) ** 2 < dice(90, 150)
    rim = np.where(opening & (y < 0), 0.35, wall)
    canvas.paint(blood - rim, tissue["wall"] + scar)
    canvas.paint(blood, tissue["blood"] * (1 + wave(canvas.points, dice, 2, 0.05, 0.12)))
    return (reference < 0).astype(np.uint8)


def expose(canvas: Canvas, dice: Dice) -> np.ndarray:
    """The scanner: texture, coil sensitivity, blur, noise of the magnitude of a complex signal (Rice); its integers, (X, Y, Z)."""
    shape = canvas.image.shape
    grain = gaussian_filter(dice.complex_normal(shape).real, 1.2) * 5
    signal = canvas.image * np.maximum(0, 1 + dice(0.03, 0.14) * grain)
    signal = signal * np.exp(wave(canvas.straight, dice, 3, 0.22, 0.03))
    signal = gaussian_filter(signal, dice(0.4, 0.85))
    signal = np.abs(signal + dice(0.015, 0.06) * dice.complex_normal(shape))
    return np.rint(signal / signal.max() * LEVELS).astype(np.int64)


def normalised(integers: np.ndarray) -> np.ndarray:
    """float32 of mean 0 and variance 1 over the volume, as LA has it. Sums of integers are exact on every machine."""
    n, total, squares = integers.size, int(integers.sum()), int((integers * integers).sum())
    return ((integers - total / n) / (math.sqrt(n * squares - total * total) / n)).astype(np.float32)


def draw_volume(seed: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image (X, Y, Z) float32, reference (X, Y, Z) uint8, spacing (3,) in mm, affine (4, 4) from indices to mm (RAS+)."""
    dice = Dice(seed, STREAM, number)
    shape = (dice.count(64, 80), dice.count(64, 72), dice.count(40, 48))
    in_plane, through = round(dice(1.15, 1.4), 2), round(dice(1.4, 1.9), 2)
    spacing = np.array([in_plane, in_plane, through])
    canvas, tissue = Canvas(shape, spacing, dice), tissues(dice)
    heart = (dice(-7, 7), dice(-4, 8), dice(-6, 6))
    body = Ellipsoid(heart, (dice(18, 28), dice(13, 20), dice(14, 22)), dice(-0.35, 0.35), dice(-0.35, 0.35))
    paint_surroundings(canvas, dice, heart, body, tissue)
    label = paint_atrium(canvas, dice, body, tissue)
    image = normalised(expose(canvas, dice))

    angle = dice(-0.25, 0.25)
    affine = np.eye(4)
    # x runs to the left and y to the back, the world's axes to the right and to the front.
    affine[:2, :2] = np.array([[-math.cos(angle), math.sin(angle)], [-math.sin(angle), -math.cos(angle)]]) * in_plane
    affine[2, 2] = through
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + (dice(-20, 20), dice(-20, 20), dice(-20, 20))
    return image, label, spacing, affine.round(6)
