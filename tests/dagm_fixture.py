"""Writes the exact folder layout of DAGM 2007 with small synthetic textures (the real images are not to be had here)."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

OFFSETS = {True: 1150, False: 575}
"""Images of Test, and so the number before the first of Train, by whether it is a class of the competition (7 to 10)."""
BLUR = {1: (1, 1), 2: (1, 6), 7: (3, 3)}


def write_dagm(root: Path, classes: tuple[int, ...] = (1, 2, 7), n_train: int = 6, n_test: int = 6, defective: int = 2, side: int = 64,
               seed: int = 0, nested: int | None = 2, thumbs: int | None = 1, bom: int | None = 7) -> None:
    """Folders, upper-case names, `Label/Labels.txt` (CRLF in Train, LF in Test) and elliptic masks of the defective images.

    Class `nested` is a folder deeper, `thumbs` has a Thumbs.db, `bom` a byte-order mark. Image 1 of each part is defective in odd
    classes only, image 2 in even ones, so that one stem is defective here and clean there; the others follow from image 3 on.
    """
    for number in classes:
        folder = root / f"Class{number}"
        folder = folder / f"Class{number}" if number == nested else folder
        for split, count, first in (("Train", n_train, OFFSETS[number >= 7] + 1), ("Test", n_test, 1)):
            (folder / split / "Label").mkdir(parents=True)
            marked = {number % 2 ^ 1} | set(range(2, 1 + defective))
            lines = ["1"]
            for place in range(count):
                stem = f"{first + place:04d}"
                rng = np.random.default_rng((seed, number, split == "Test", place))
                image, mask = draw(rng, BLUR.get(number, (2, 2)), side, place in marked)
                Image.fromarray(image).save(folder / split / f"{stem}.PNG")
                if place in marked:
                    Image.fromarray(mask).save(folder / split / "Label" / f"{stem}_label.PNG")
                label = f"{stem}_label.PNG" if place in marked else "0"
                lines.append(f"{first + place}\t{int(place in marked)}\t{stem}.PNG\t0\t{label}")
            end = "\r\n" if split == "Train" else "\n"
            text = end.join(lines) + end
            (folder / split / "Label" / "Labels.txt").write_bytes((b"\xef\xbb\xbf" if number == bom else b"") + text.encode())
            if number == thumbs:
                (folder / split / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 not a picture")


def draw(rng: np.random.Generator, blur: tuple[int, int], side: int, has_defect: bool) -> tuple[np.ndarray, np.ndarray]:
    """(image, mask), both (side, side) uint8: band-limited noise of mean 135 and deviation 35, a dark line, an ellipse around it."""
    texture = gaussian_filter(rng.standard_normal((side, side)), blur, mode="wrap")
    grey = 135 + 35 * (texture - texture.mean()) / texture.std()
    y, x = np.mgrid[:side, :side] - rng.uniform(0.2, 0.8, (2, 1, 1)) * side
    angle = rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    mask = np.zeros((side, side), np.uint8)
    if has_defect:
        half = side / 10
        grey[(np.abs(along) <= half) & (np.abs(across) <= 1)] -= 90
        mask[(along / (2.2 * half)) ** 2 + (across / half) ** 2 <= 1] = 255
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8), mask
