"""What an augmentation draws: the recipes, their random numbers, and the small tables that follow from them."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

COLUMNS = 12
"""Uniform numbers a row; more than any recipe uses, so that all recipes share one layout of the stream."""


@dataclass(frozen=True)
class Recipe:
    """Probabilities of each operation; 0 leaves it out. See `draw` for what each of them draws."""

    rot_flip: bool = False
    """Quarter turns and a flip, or a rotation (2D); quarter turns, a flip and a crop (3D)."""
    rotate: float = 0.5
    """Share of images with a rotation in place of turns and flip (2D)."""
    mirrors: bool = False
    """Each of the first two axes is turned round or not, by itself; then a crop (3D)."""
    h_flip: float = 0.0
    v_flip: float = 0.0
    brightness: float = 0.0
    blur: float = 0.0
    rot90: float = 0.0
    noise: float = 0.0
    scale: tuple[float, float] | None = None
    """Long side scaled to between these multiples of itself, or of `long_side`, then a crop, then a mirror (see `scale_crop`)."""
    long_side: int = 0
    photographic: bool = False
    """Made for 8-bit photographs, which are resized (or scaled) first and then transformed; other recipes transform first."""


RECIPES = {
    "none": Recipe(),
    "rot_flip": Recipe(rot_flip=True),
    "turn_flip": Recipe(rot_flip=True, rotate=0.0),
    "mirrors": Recipe(mirrors=True),
    "simeps_neu": Recipe(h_flip=0.4, v_flip=0.4, brightness=0.5, blur=0.3, rot90=0.3, noise=0.3, photographic=True),
    "simeps_dagm": Recipe(h_flip=0.5, v_flip=0.5, brightness=0.5, photographic=True),
    "simeps_mt": Recipe(h_flip=0.5, v_flip=0.5, brightness=0.5, photographic=True),
    "scale_crop": Recipe(scale=(0.5, 2.0), h_flip=0.5, photographic=True),
    "scale_crop_400": Recipe(scale=(0.5, 2.0), long_side=400, h_flip=0.5, photographic=True),
    "scale_crop_2048": Recipe(scale=(0.5, 2.0), long_side=2048, h_flip=0.5, photographic=True),
    "histology": Recipe(scale=(0.8, 1.2), h_flip=0.5, photographic=True),
}
"""'scale_crop': UniMatch and DSSN on photographs; with 400 (VOC) and 2048 (Cityscapes) ST++, CISC-R and STI.
'histology': the range of scales of PG-FANet's pipeline, without its shear and rotation.
'rot_flip': SSL4MIS's RandomGenerator (2D) and RandomRotFlip + RandomCrop (3D); 'turn_flip': the weak view of its FixMatch.
'mirrors': DHC's RandomCrop, RandomFlip_LR and RandomFlip_UD.
'simeps_*': the input pipelines of simEps (Albumentations 0.4.6 defaults where the code gives none), in its order: resize,
flips, brightness and contrast, blur, quarter turns, noise."""

Draws = dict[str, np.ndarray]


def draw(recipe: Recipe, rng: np.random.Generator, n: int, dimensions: int = 2) -> Draws:
    """Parameters of `n` rows, each array (n,) or (n, dimensions); row i does not depend on n."""
    u = rng.random((n, COLUMNS))

    def integers(column: int, low: int, high: int) -> np.ndarray:
        return low + np.floor(u[:, column] * (high - low)).astype(np.int64)

    if recipe.scale:
        return {"long_side": u[:, 0], "across": u[:, 1], "down": u[:, 2], "h_flip": u[:, 3] < recipe.h_flip}
    if recipe.photographic:
        brightness, blur, noise = (u[:, c] < p for c, p in ((2, recipe.brightness), (5, recipe.blur), (8, recipe.noise)))
        return {
            "h_flip": u[:, 0] < recipe.h_flip,
            "v_flip": u[:, 1] < recipe.v_flip,
            "contrast": np.where(brightness, 1 + 0.5 * u[:, 3], 1.0),
            "brightness": np.where(brightness, 0.5 * u[:, 4], 0.0),
            "blur": np.where(blur, 3 + 2 * integers(6, 0, 3), 1),
            "turns": np.where(u[:, 7] < recipe.rot90, integers(11, 0, 4), 0),
            "noise": np.where(noise, np.sqrt(10 + 40 * u[:, 9]), 0.0),
            "noise_seed": integers(10, 0, 2**32),
        }
    # A transform is always applied: a flip follows the turns every time. Mirrors are a half turn or none, then a flip or none.
    flip = integers(2, 0, 2) if recipe.rot_flip else integers(2, -1, 1) if recipe.mirrors else np.full(n, -1)
    return {
        "rotate": (u[:, 0] >= 1 - recipe.rotate) & recipe.rot_flip & (dimensions == 2),
        "turns": integers(1, 0, 4) * recipe.rot_flip + 2 * integers(1, 0, 2) * recipe.mirrors,
        "flip": flip,
        "angle": integers(3, -20, 20),
        "start": u[:, 4 : 4 + dimensions],
    }


def rows_of(draws: Draws, rows: np.ndarray | slice) -> Draws:
    """The parameters of some rows."""
    return {name: values[rows] for name, values in draws.items()}


@lru_cache(maxsize=65536)
def rotation(angle: int, height: int, width: int) -> tuple[float, ...]:
    """(m00, m01, b0, m10, m11, b1) of scipy.ndimage.rotate(reshape=False): source y = b0 + m00 i + m01 j, x likewise."""
    c, s = special.cosdg(angle), special.sindg(angle)
    matrix = np.array([[c, s], [-s, c]])
    centre = (np.array([height, width]) - 1) / 2
    offset = centre - matrix @ centre
    return (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])


@lru_cache(maxsize=65536)
def turn_and_flip(turns: int, flip: int, height: int, width: int) -> tuple[float, ...]:
    """The same six numbers for np.rot90(a, turns), then np.flip along axis `flip` (-1: none); exact integers."""
    tall, wide = (width, height) if turns % 2 else (height, width)
    si, bi = (-1, tall - 1) if flip == 0 else (1, 0)
    sj, bj = (-1, wide - 1) if flip == 1 else (1, 0)
    if turns == 0:
        return (si, 0, bi, 0, sj, bj)
    if turns == 1:
        return (0, sj, bj, -si, 0, width - 1 - bi)
    if turns == 2:
        return (-si, 0, height - 1 - bi, 0, -sj, width - 1 - bj)
    return (0, -sj, height - 1 - bj, si, 0, bi)


def brightness_tables(draws: Draws) -> np.ndarray:
    """(B, 256) uint8: clip(contrast v + 255 brightness), cut to an integer, as Albumentations does on 8-bit images."""
    values = np.arange(256, dtype=np.float32)
    out = values * draws["contrast"].astype(np.float32)[:, None] + (255 * draws["brightness"]).astype(np.float32)[:, None]
    return np.clip(out, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def normal_quantiles() -> np.ndarray:
    """(65536,) float32 quantiles of the standard normal distribution; a table makes both implementations draw the same noise."""
    return special.ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)


def crop_plan(size: tuple[int, ...], shapes: np.ndarray, draws: Draws) -> np.ndarray:
    """(B, 3) int64: where each crop begins in the turned volume (negative where it was padded).

    If any side is <= the patch's, every axis gets max((p - s) // 2 + 3, 0) zeros on both sides; the start is drawn
    from [0, s - p), its upper end excluded as published.
    """
    patch = np.asarray(size)
    turned = (draws["turns"] % 2 == 1)[:, None]
    sides = np.where(turned, shapes[:, [1, 0, 2]], shapes)
    pad = np.where((sides <= patch).any(1, keepdims=True), np.maximum((patch - sides) // 2 + 3, 0), 0)
    room = np.maximum(sides + 2 * pad - patch, 1)
    return np.floor(draws["start"] * room).astype(np.int64) - pad
