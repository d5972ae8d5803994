"""Draws `Phantom`: synthetic short-axis cardiac frames, so that everything runs on a machine without data.

A patient is an anatomy (pose, shapes, tissue intensities) and two frames of it, relaxed and contracted. A slice is painted
from the back to the front, air first, papillary muscles last; every shape is a star-shaped region r < R(phi) with a soft edge.

The arrays of a seed have the same bytes on every machine: all randomness is PCG64's uniform stream, which NumPy guarantees
not to change, and pixels are rounded to a scanner's integers, which hides the last bit of each machine's sine.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

VERSION = 2
"""Of the drawing: a change of any pixel raises it, so that `ensure` refuses what an older one left."""

STREAM = 1

LEVELS = 1023
RELAXED, CONTRACTED = FRAMES = range(2)


class Dice:
    """Uniform draws, and what can be made of them without a stream that NumPy may change."""

    def __init__(self, *key: int):
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def __call__(self, low: float, high: float) -> float:
        return low + (high - low) * self.generator.random()

    def chance(self, probability: float) -> bool:
        return self.generator.random() < probability

    def count(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + int(self.generator.random() * (high - low + 1))

    def complex_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Independent standard normal real and imaginary parts (Box and Muller)."""
        u, v = self.generator.random((2, *shape))
        return np.sqrt(-2 * np.log1p(-u)) * np.exp(2j * np.pi * v)


@dataclass(frozen=True)
class Star:
    """A region r < radius * (1 + sum_k a_k cos(k phi - p_k)) around (y, x); lengths in 1/64 of the field of view."""

    y: float
    x: float
    radius: float
    waves: tuple[tuple[int, float, float], ...] = ()

    def scaled(self, factor: float, grow: float = 0.0) -> Star:
        return Star(self.y, self.x, self.radius * factor + grow, self.waves)

    def moved(self, dy: float, dx: float) -> Star:
        return Star(self.y + dy, self.x + dx, self.radius, self.waves)


def wobble(dice: Dice, strength: float, highest: int = 4) -> tuple[tuple[int, float, float], ...]:
    """Waves of random phase, weaker for higher k."""
    return tuple((k, dice(0.3, 1) * strength / k, dice(0, 2 * np.pi)) for k in range(2, highest + 1))


class Canvas:
    """One slice while it is painted: intensities (H, W), and the coordinates of its pixels in units of the field of view."""

    def __init__(self, height: int, width: int):
        self.unit = 64 / min(height, width)
        self.y, self.x = np.meshgrid(
            (np.arange(height) - (height - 1) / 2) * self.unit, (np.arange(width) - (width - 1) / 2) * self.unit, indexing="ij")
        self.image = np.zeros((height, width))

    def coverage(self, star: Star, softness: float = 1.0) -> np.ndarray:
        """Share of each pixel inside the region, (H, W) in [0, 1]; the edge is `softness` pixels wide."""
        dy, dx = self.y - star.y, self.x - star.x
        boundary: np.ndarray | float = star.radius
        if star.waves:
            phi = np.arctan2(dy, dx)
            boundary = star.radius * (1 + sum(a * np.cos(k * phi - p) for k, a, p in star.waves))
        return np.clip(0.5 + (boundary - np.hypot(dy, dx)) / (self.unit * softness), 0, 1)

    def paint(self, coverage: np.ndarray, intensity: float | np.ndarray) -> None:
        self.image += coverage * (intensity - self.image)


@dataclass(frozen=True)
class Tube:
    """A distractor: a disc of blood, with or without a wall of muscle, that runs through the slices."""

    start: Star
    drift: tuple[float, float]
    wall: float
    inside: float
    rim: float


@dataclass(frozen=True)
class Anatomy:
    """What both frames of a patient share. Angles in radians, lengths in 1/64 of the field of view."""

    shape: tuple[int, int, int]
    epicardium: Star
    cavity_waves: tuple[tuple[int, float, float], ...]
    wall: float
    """Thickness of the relaxed muscle as a share of the outer radius."""
    ejection: float
    """Contracted over relaxed radius of the cavity."""
    septum: float
    """Direction from the left to the right ventricle."""
    right: Star
    """Right ventricle at the base, relative to the left one's centre."""
    right_end: float
    """Depth at which the right ventricle vanishes (0 base, 1 apex)."""
    apex: float
    """Outer radius at the apex as a share of that at the base."""
    tilt: tuple[float, float]
    papillary: tuple[tuple[float, float, float], ...]
    """(angle, distance as a share of the cavity's radius, radius) of each muscle."""
    tissue: dict[str, float]
    body: Star
    fat: float
    lungs: tuple[Star, ...]
    organs: tuple[tuple[Star, float], ...]
    tubes: tuple[Tube, ...]
    bias: tuple[tuple[float, float, float, float], ...]
    noise: float
    blur: float
    texture: float


def tissues(dice: Dice) -> dict[str, float]:
    """Mean intensities. Between patients the ranges of blood, muscle and their neighbours overlap widely."""
    muscle = dice(0.16, 0.40)
    blood = muscle + dice(0.3, 0.65)
    return {"muscle": muscle, "left": blood, "right": blood * dice(0.82, 1.1), "fat": dice(0.35, 0.9), "lung": dice(0.02, 0.22),
            "flesh": dice(0.15, 0.5), "liver": dice(0.15, 0.65), "pericardium": dice(0.05, 0.25)}


def draw_tube(dice: Dice, heart: Star, tissue: dict[str, float], ringed: bool) -> Tube:
    """Outside the heart, anywhere else in the field of view."""
    angle, distance = dice(0, 2 * np.pi), heart.radius * 1.5 + dice(5, 24)
    radius = dice(3, 7.5) if ringed else dice(0.8, 3.6)
    star = Star(heart.y + distance * np.sin(angle), heart.x + distance * np.cos(angle), radius, wobble(dice, 0.16, 3))
    inside = tissue["left"] * dice(0.75, 1.15) if dice.chance(0.75) else tissue["muscle"]
    return Tube(star, (dice(-6, 6), dice(-6, 6)), dice(0.22, 0.5) if ringed else 0.0, inside, tissue["muscle"] * dice(0.8, 1.25))


def anatomy(dice: Dice) -> Anatomy:
    tissue = tissues(dice)
    heart = Star(dice(-6, 6), dice(-6, 6), dice(12, 17), wobble(dice, 0.1))
    septum = np.pi + dice(-0.9, 0.9)
    reach = dice(0.8, 1.1)
    across = ((2, dice(0.1, 0.34), 2 * (septum + np.pi / 2 + dice(-0.3, 0.3))), *wobble(dice, 0.1)[1:])
    right = Star(reach * heart.radius * np.sin(septum), reach * heart.radius * np.cos(septum), heart.radius * dice(0.7, 1.1), across)
    body = Star(dice(-4, 8), dice(-6, 6), dice(29, 44), ((2, dice(0.02, 0.2), np.pi + dice(-0.6, 0.6)), *wobble(dice, 0.08)[1:]))
    lungs = tuple(
        Star(heart.y + dice(-20, 2), heart.x + side * dice(12, 22), dice(12, 24), wobble(dice, 0.25))
        for side in (-1, 1) if dice.chance(0.85))
    organs = tuple(
        (Star(heart.y + dice(18, 32), dice(-28, 28), dice(8, 20), wobble(dice, 0.22)), tissue["liver"] * dice(0.7, 1.3))
        for _ in range(dice.count(1, 3)))
    tubes = tuple(draw_tube(dice, heart, tissue, i < 2) for i in range(dice.count(3, 12)))
    return Anatomy(
        shape=(dice.count(6, 8), dice.count(64, 80), dice.count(64, 80)),
        epicardium=heart, cavity_waves=wobble(dice, 0.14), wall=dice(0.25, 0.42), ejection=dice(0.5, 0.93), septum=septum,
        right=right, right_end=dice(0.62, 1.0), apex=dice(0.5, 0.7), tilt=(dice(-5, 5), dice(-5, 5)),
        papillary=tuple((septum + dice(1.6, 4.7), dice(0.5, 0.85), dice(0.7, 2.2)) for _ in range(dice.count(1, 4))),
        tissue=tissue, body=body, fat=dice(1.2, 6), lungs=lungs, organs=organs, tubes=tubes,
        bias=tuple((dice(-0.22, 0.22), dice(-1.6, 1.6), dice(-1.6, 1.6), dice(0, 2 * np.pi)) for _ in range(3)),
        noise=dice(0.01, 0.05), blur=dice(0.35, 0.95), texture=dice(0.02, 0.12))


def paint_surroundings(canvas: Canvas, body: Anatomy, depth: float, wander: tuple[float, float]) -> None:
    """Chest wall, lungs, organs below the diaphragm, vessels and ring-shaped distractors."""
    tissue = body.tissue
    outer = body.body.moved(*wander)
    canvas.image[:] = 0.012
    canvas.paint(canvas.coverage(outer), tissue["fat"])
    chest = canvas.coverage(outer.scaled(1, -body.fat))
    canvas.paint(chest, tissue["flesh"])
    for lung in body.lungs:
        canvas.paint(canvas.coverage(lung.scaled(1.1 - 0.4 * depth), 1.5) * chest, tissue["lung"])
    for organ, intensity in body.organs:
        canvas.paint(canvas.coverage(organ.scaled(0.6 + 0.6 * depth)) * chest, intensity)
    for tube in body.tubes:
        place = tube.start.moved(*(d * (depth - 0.5) for d in tube.drift))
        canvas.paint(canvas.coverage(place) * chest, tube.rim if tube.wall else tube.inside)
        if tube.wall:
            canvas.paint(canvas.coverage(place.scaled(1 - tube.wall)) * chest, tube.inside)


def paint_heart(canvas: Canvas, body: Anatomy, frame: int, depth: float, wander: tuple[float, float], dice: Dice) -> np.ndarray:
    """Paints both ventricles and returns the label map, (H, W) uint8: 0 background, 1 RV, 2 myocardium, 3 LV."""
    tissue, contracted = body.tissue, frame == CONTRACTED
    profile = body.apex + (1 - body.apex) * np.sqrt(max(0.0, 1 - depth**2))
    dy, dx = (w + t * (depth - 0.5) for w, t in zip(wander, body.tilt))
    outside = body.epicardium.moved(dy, dx).scaled(profile * (0.97 if contracted else 1.0))
    thin = (1 - body.wall) * (body.ejection if contracted else 1.0) * (0.55 + 0.45 * profile)
    cavity = Star(outside.y, outside.x, max(1.6, outside.radius * thin), body.cavity_waves)

    # The crescent is a second region pushed towards the septum, less the left ventricle in front of it.
    vanish = max(0.0, 1 - (depth / body.right_end) ** 2) ** 0.5
    squeeze = 0.8 + 0.2 * body.ejection if contracted else 1.0
    right = Star(
        outside.y + body.right.y * profile, outside.x + body.right.x * profile, body.right.radius * vanish * squeeze, body.right.waves)

    heart = canvas.coverage(outside)
    canvas.paint(canvas.coverage(outside.scaled(1.12, 1.0).moved(0.6, 0.4), 2.5), tissue["pericardium"])
    label = np.zeros(heart.shape, np.uint8)
    if right.radius > 2:
        crescent = canvas.coverage(right)
        canvas.paint(canvas.coverage(right.scaled(1, 1.1)), tissue["muscle"])
        canvas.paint(crescent, tissue["right"])
        label[crescent > 0.5] = 1
    blood = canvas.coverage(cavity) * heart
    canvas.paint(heart, tissue["muscle"])
    canvas.paint(blood, tissue["left"])
    label[heart > 0.5] = 2
    label[blood > 0.5] = 3
    for angle, distance, radius in body.papillary:
        place = cavity.radius * distance
        muscle = Star(cavity.y + place * np.sin(angle), cavity.x + place * np.cos(angle), radius * profile * dice(0.5, 1.1))
        canvas.paint(canvas.coverage(muscle) * blood, tissue["muscle"])
    return label


def expose(canvas: Canvas, body: Anatomy, dice: Dice) -> np.ndarray:
    """The scanner: texture, coil sensitivity, blur, and noise of the magnitude of a complex signal (Rice)."""
    height, width = canvas.image.shape
    grain = gaussian_filter(dice.complex_normal((height, width)).real, 1.2) * 3
    signal = canvas.image * np.maximum(0, 1 + body.texture * grain)
    y, x = canvas.y / 32, canvas.x / 32
    signal *= np.exp(sum(a * np.cos(u * y + v * x + p) for a, u, v, p in body.bias))
    signal = gaussian_filter(signal, body.blur)
    return np.abs(signal + body.noise * dice.complex_normal((height, width)))


def draw_patient(seed: int, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two frames of patient `number`: images (D, H, W) float32 in [0, 1] and labels (D, H, W) uint8."""
    body = anatomy(Dice(seed, STREAM, number))
    depth, height, width = body.shape
    frames = []
    for frame in FRAMES:
        dice = Dice(seed, STREAM, number, 1 + frame)
        signal, labels = np.empty(body.shape), np.empty(body.shape, np.uint8)
        for k in range(depth):
            canvas = Canvas(height, width)
            breath = (dice(-0.8, 0.8), dice(-0.8, 0.8))
            paint_surroundings(canvas, body, k / (depth - 1), breath)
            labels[k] = paint_heart(canvas, body, frame, k / (depth - 1), breath, dice)
            signal[k] = expose(canvas, body, dice)
        # Integers as a scanner stores them, then the min-max normalisation over the frame that real data get.
        integers = np.rint(signal / signal.max() * LEVELS)
        images = ((integers - integers.min()) / (integers.max() - integers.min())).astype(np.float32)
        frames.append((images, labels))
    return frames
