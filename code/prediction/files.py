"""Predictions on new images as files: masks, probability maps, overlays, and a sheet of the least certain ones."""
from __future__ import annotations

import gzip
import io
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image, ImageDraw

from dataloaders.description import DataSet, NewImage
from dataloaders.layouts.nifti import in_place_of
from pictures.flat import grey, overlay
from pictures.sheets import legend, plt
from pictures.volumes import three_planes
from prediction.inputs import shown
from prediction.record import PART

LONGEST, SHORTEST = 1600, 400
"""Pixels of an overlay's longer side: larger pictures are reduced, smaller ones enlarged, so that outlines are thin."""
MOST_SLICES, SLICE_SIDE = 24, 240
"""Of a volume that is predicted slice by slice: slices in its overlay, and pixels of the longer side of each."""
SHEET = (3, 4)
"""Rows and columns of the sheet."""
FULL = 65535
"""The value of probability 1 in a 16-bit picture."""
DRAWING = threading.Lock()
"""Held while matplotlib draws, which knows no threads."""


def write(path: Path, content: bytes) -> str:
    """Writes beside the place and renames, so that a file is whole or not there; gives its name. Not synced: there are thousands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{PART}{os.getpid()}-{threading.get_ident()}"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.name


def picture(array: np.ndarray, kind: str = "PNG") -> bytes:
    """A file of (H, W) uint8 or uint16, or (H, W, 3) uint8."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **({"quality": 90, "subsampling": 0} if kind == "JPEG" else {"compress_level": 3}))
    return stream.getvalue()


def nifti(array: np.ndarray, image: NewImage, flat: bool) -> bytes:
    """A .nii.gz of (S, H, W), (X, Y, Z), or (K, ...) of these, with the place of the image; of several classes 4D (x, y, z, class)."""
    space = array.transpose(*range(array.ndim - 3), *reversed(range(array.ndim - 3, array.ndim))) if flat else array
    if space.ndim == 4:
        space = np.moveaxis(space, 0, -1)
    if image.header is not None:
        return gzip.compress(in_place_of(space, image.header).to_bytes(), 1)
    steps = image.spacing or (1.0, 1.0, 1.0)
    affine = image.affine if image.affine is not None else np.diag([*(steps[::-1] if flat else steps), 1.0])
    volume = nibabel.Nifti1Image(space, affine)
    volume.header.set_xyzt_units("mm")
    if image.spacing is None:
        volume.header["descrip"] = b"spacing unknown; 1 mm is no measurement"
    return gzip.compress(volume.to_bytes(), 1)


def write_mask(stem: Path, labels: np.ndarray, image: NewImage, flat: bool) -> list[str]:
    """<stem>.png, or <stem>.nii.gz of a volume, with the class ids; `labels` (S, H, W) or (X, Y, Z) at the size of the file."""
    if image.is_picture:
        return [write(_with(stem, ".png"), picture(labels[0]))]
    return [write(_with(stem, ".nii.gz"), nifti(labels, image, flat))]


def write_probabilities(stem: Path, probabilities: np.ndarray, image: NewImage, flat: bool) -> list[str]:
    """<stem>/<class id>.png of `sixteen_bits`, or of a volume <stem>.nii.gz (x, y, z, class) float32; `probabilities` (K, ...)."""
    if not image.is_picture:
        return [write(_with(stem, ".nii.gz"), nifti(probabilities, image, flat))]
    return [f"{stem.name}/" + write(stem / f"{c}.png", picture(one[0])) for c, one in enumerate(probabilities)]


def sixteen_bits(probabilities: np.ndarray) -> np.ndarray:
    """uint16: 65535 is 1."""
    return np.rint(FULL * probabilities).astype(np.uint16)


def reduced_by(size: Sequence[int]) -> int:
    """Into how many pixels along each side one of an overlay goes."""
    return -(-max(size) // LONGEST)


def background(pixels: np.ndarray) -> np.ndarray:
    """(C, 1, H, W) pixels of a picture -> (3, h, w) uint8, what its overlay is drawn on."""
    small = Image.fromarray(grey(pixels[:, 0]))
    return np.asarray(small.reduce(reduced_by(pixels.shape[-2:]))).transpose(2, 0, 1)


def picture_overlay(stem: Path, under: np.ndarray, labels: np.ndarray) -> list[str]:
    """<stem>.jpg: `labels` (H, W) over `under` (3, h, w). Where the overlay is smaller, the greatest class id of a block is shown, so that
    nothing small is lost."""
    step = reduced_by(labels.shape)
    if step > 1:
        h, w = (-(-side // step) for side in labels.shape)
        padded = np.zeros((h * step, w * step), labels.dtype)
        padded[: labels.shape[0], : labels.shape[1]] = labels
        labels = padded.reshape(h, step, w, step).max((1, 3))
    if labels.shape != under.shape[1:]:  # ISIC's reader reduces
        under = np.asarray(Image.fromarray(under.transpose(1, 2, 0)).resize(labels.shape[::-1])).transpose(2, 0, 1)
    return [write(_with(stem, ".jpg"), picture(drawn(under, labels, SHORTEST), "JPEG"))]


def drawn(under: np.ndarray, labels: np.ndarray, least: int) -> np.ndarray:
    """`overlay`, enlarged by a whole number so that its longer side has about `least` pixels or more."""
    times = max(1, round(least / max(labels.shape)))
    return overlay(under.repeat(times, -2).repeat(times, -1), labels.repeat(times, 0).repeat(times, 1))


def slices_overlay(stem: Path, pixels: np.ndarray, labels: np.ndarray) -> list[str]:
    """<stem>.jpg: slices of (C, S, H, W) with their labels, numbered from 1, in rows; of many slices some, evenly spread."""
    count = len(labels)
    places = sorted({round(k) for k in np.linspace(0, count - 1, min(count, MOST_SLICES))})
    whole = grey(pixels[:1].reshape(1, count, -1)).reshape(*labels.shape, 3)
    tiles = []
    for k in places:
        tile = Image.fromarray(drawn(whole[k].transpose(2, 0, 1), labels[k], SLICE_SIDE))
        scale = SLICE_SIDE / max(tile.size)
        tile = tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))))
        ImageDraw.Draw(tile).text((4, 2), str(k + 1), fill=(255, 220, 80))
        tiles.append(tile)
    columns = min(6, len(tiles))
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * (width + 2), -(-len(tiles) // columns) * (height + 2)), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, ((number % columns) * (width + 2), (number // columns) * (height + 2)))
    return [write(_with(stem, ".jpg"), picture(np.asarray(sheet), "JPEG"))]


def volume_overlay(stem: Path, image: NewImage, labels: np.ndarray, entropy: np.ndarray, data: DataSet, title: str) -> list[str]:
    """<stem>.png: three planes through the middle of what was found, and through the least certain place; of what was predicted."""
    stream = io.BytesIO()
    with DRAWING:
        three_planes(stream, image.pixels, None, labels, image.spacing, data.classes, title, image.affine, entropy)
    return [write(_with(stem, ".png"), stream.getvalue())]


def sheet(path: Path, rows: Sequence[Mapping[str, Any]], place: Path, classes: Sequence[str]) -> None:
    """A PNG of the first dozen rows, the least certain: each file's overlay, name and figures."""
    shown_rows = rows[: SHEET[0] * SHEET[1]]
    columns = min(SHEET[1], len(shown_rows))
    lines = -(-len(shown_rows) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4 * columns, 4 * lines + 0.5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (axis, row) in enumerate(zip(axes.flat, shown_rows), 1):
        drawn = next((place / file for file in row["written"] if file.startswith("overlays/")), None)
        if drawn is not None and drawn.is_file():
            with Image.open(drawn, formats=("PNG", "JPEG")) as opened:
                small = opened.convert("RGB")
                small.thumbnail((640, 640))
            axis.imshow(np.asarray(small))
            axis.set_anchor("N")
        told = f"confidence {row['confidence']:.2f}, entropy {row['entropy']:.3f}"
        told += "" if row["disagreement"] is None else f", disagreement {row['disagreement']:.2f}"
        name = shown(row["file"])
        title = "\n".join([f"{number}. {name if len(name) < 44 else '...' + name[-40:]}", told, *row["flags"][:1]])
        axis.set_title(title, fontsize=9, parse_math=False)
    legend(figure, classes)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in letters that the font has not
        figure.tight_layout(rect=(0, 0.3 / (4 * lines + 0.5), 1, 1))
        figure.savefig(stream, dpi=90)
    plt.close(figure)
    write(path, stream.getvalue())


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)
