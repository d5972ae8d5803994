"""Cases as pictures: which ones, read from the runs' predictions/, with outlines as paths; the figure that papers print."""
from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from contourpy import contour_generator
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from PIL import Image

from dataloaders.reading import informative_slice
from pictures.flat import colour_of, grey
from reporting.printing.drawing import INK, MUTED, Drawing, file_key, short
from reporting.records import Record
from reporting.rows import draw_key, said
from reporting.run_files import predictions
from reporting.summary import Row, Table

LARGEST = 288
"""Pixels along the longer side of a picture; finer ones are thinned out."""
LONGEST_PATH = 9000
"""Characters of an outline; a longer one (a prediction that is all specks) is drawn coarser."""
IGNORED = "#8c8c8c"


@dataclass(frozen=True)
class Tile:
    """What one row of a table predicted."""

    labels: np.ndarray
    """(H, W) class ids."""
    dice: float | None
    """Of the whole case in this run, mean over its classes, 0 to 1."""
    run: str
    """Which run: fold 0, seed 1."""


@dataclass(frozen=True)
class Example:
    """A case as it is shown: one slice of a volume, or a photograph."""

    case: str
    why: str
    where: str
    """Which slice; "" for a photograph."""
    image: np.ndarray
    """(H, W, 3) uint8."""
    reference: np.ndarray
    """(H, W) class ids."""
    tiles: dict[str, Tile]
    """By key of a row; rows whose files are gone or cannot be read are not there."""
    aspect: float
    """Width of a pixel by its height."""


Files = dict[str, tuple[Record, dict[str, Path]]]
"""By case: the first run (by fold, draw, seed) that has its files, and these."""


def files_of(row: Row) -> Files:
    found: Files = {}
    for record in row.records:
        for case, paths in predictions(record).items():
            found.setdefault(case, (record, paths))
    return found


def case_dice(record: Record, case: str) -> float | None:
    """Mean over the classes that the case has, in one run."""
    values = [one["dice"] for one in record.cases if one["name"] == case and one["dice"] is not None]
    return mean(values) if values else None


def examples(table: Table) -> dict[str, list[Example]]:
    """`cases`: best, median and worst case of the first method, and the one in which methods differ most. `worst`: further cases that
    are the worst of some method, at most six. Empty where no predictions are at hand."""
    there = {row.key: files for row in table.rows if (files := files_of(row))}
    if not there:
        return {}
    rows = [row for row in table.rows if row.key in there]
    most = max(sum(case in files for files in there.values()) for files in there.values() for case in files)
    cases = sorted({case for files in there.values() for case in files if sum(case in one for one in there.values()) == most})
    dice = {row.key: {case: value for case in cases if case in there[row.key]
                      and (value := case_dice(there[row.key][case][0], case)) is not None} for row in rows}
    first = next((row for row in rows if not row.baseline and dice[row.key]), rows[0])
    order = sorted(dice[first.key], key=lambda case: (dice[first.key][case], case))
    why: dict[str, str] = {}
    if order:
        for case, word in ((order[-1], "best"), (order[len(order) // 2], "median"), (order[0], "worst")):
            why.setdefault(case, f"{word} case of {first.label}")
    gaps = {case: max(values) - min(values) for case in cases if case not in why
            and len(values := [dice[row.key][case] for row in rows if case in dice[row.key]]) > 1}
    if gaps:
        why[max(gaps, key=lambda case: (gaps[case], case))] = "methods differ most"
    worst: dict[str, str] = {}
    for place in range(2):
        for row in rows:
            left = sorted(dice[row.key], key=lambda case: (dice[row.key][case], case))[place:place + 1]
            for case in left:
                word = f"{'worst' if place == 0 else 'second worst'} case of {row.label}"
                if case in worst:
                    worst[case] += f"; {word}"
                elif case not in why and len(worst) < 6:
                    worst[case] = word
    made = {name: [one for case, word in chosen.items() if (one := _example(table, rows, there, case, word))]
            for name, chosen in (("cases", why), ("worst", worst))}
    return {name: found for name, found in made.items() if found}


def _example(table: Table, rows: Sequence[Row], there: dict[str, Files], case: str, why: str) -> Example | None:
    """None where image or reference cannot be read."""
    having = [row for row in rows if case in there[row.key]]
    image = reference = None
    aspect = 1.0
    predicted: dict[str, np.ndarray] = {}
    for row in having:
        _, paths = there[row.key][case]
        try:
            if image is None or reference is None:
                image, aspect = _read(paths["img"], table.dimensions == 3)
                reference = _read(paths["gt"], table.dimensions == 3)[0].astype(np.int32)
            labels = _read(paths["pred"], table.dimensions == 3)[0].astype(np.int32)
        except (OSError, RuntimeError, ValueError):
            continue
        if labels.shape == reference.shape:
            predicted[row.key] = labels
    if image is None or reference is None or not predicted or image.shape[:3] != reference.shape:
        return None
    wrong = sum((labels != reference) & (reference != 255) for labels in predicted.values())
    at_errors = not why.startswith(("best", "median")) and np.any(wrong)
    k = int(np.asarray(wrong).reshape(len(reference), -1).sum(1).argmax()) if at_errors else informative_slice(reference)
    whole = image.ndim == 4
    window = (slice(None), slice(None)) if whole else _window([reference[k] % 255, *(labels[k] for labels in predicted.values())])
    picture = image[k] if whole else grey(image[k][None].astype(np.float32))
    picture = picture[window]
    step = -(-max(picture.shape[:2]) // LARGEST)
    size = (picture.shape[1] // step, picture.shape[0] // step)
    picture = np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.LANCZOS)) if step > 1 else picture
    thin = (slice(step // 2, size[1] * step, step), slice(step // 2, size[0] * step, step))
    tiles = {key: Tile(labels[k][window][thin], case_dice(there[key][case][0], case), said(draw_key(there[key][case][0])))
             for key, labels in predicted.items()}
    where = f"slice {k + 1} of {len(reference)}" if len(reference) > 1 else ""
    return Example(case, why, where, picture, reference[k][window][thin], tiles, aspect)


def _read(path: Path, upright: bool) -> tuple[np.ndarray, float]:
    """(slices, H, W), a photograph (1, H, W) or (1, H, W, 3); and the width of a pixel by its height. Volumes of 3D data sets are turned
    to the way in which a radiologist sees axial slices, where their place in the patient is known."""
    if path.suffix == ".png":
        with Image.open(path, formats=("PNG",)) as opened:
            return np.asarray(opened)[None], 1.0
    import SimpleITK  # here alone: it is large, and photographs do not need it

    volume = SimpleITK.ReadImage(str(path))
    if upright and volume.GetDimension() == 3:
        volume = SimpleITK.DICOMOrient(volume, "LPS")
    array = SimpleITK.GetArrayFromImage(volume)
    return (array if array.ndim == 3 else array[None]), volume.GetSpacing()[0] / volume.GetSpacing()[1]


def _window(maps: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """A square around all structures, reference and predicted, with a margin; the whole where that is not much less."""
    inside = np.any([one > 0 for one in maps], 0)
    height, width = inside.shape
    if not inside.any():
        return slice(0, height), slice(0, width)
    spots = np.argwhere(inside)
    (top, left), (bottom, right) = spots.min(0), spots.max(0) + 1
    side = int(1.35 * max(bottom - top, right - left)) + 8
    if side * side > 0.6 * height * width:
        return slice(0, height), slice(0, width)
    parts = []
    for low, high, full in ((top, bottom, height), (left, right, width)):
        start = max(0, min((int(low) + int(high) - side) // 2, full - side))
        parts.append(slice(start, min(start + side, full)))
    return parts[0], parts[1]


# Outlines


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed polygons (N, 2) of x, y in half pixels around a mask (H, W) and its holes; a pixel's edges are at even numbers."""
    lines = contour_generator(z=np.pad(mask, 1).astype(np.float32)).lines(0.5)
    found = []
    for line in lines:
        points = np.rint(2 * np.asarray(line)).astype(int)[:-1] - 1
        before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
        found.append(points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]])
    return [polygon for polygon in found if len(polygon) > 2]


def path_data(mask: np.ndarray) -> str:
    """The outlines as an SVG path in half pixels."""
    text = _path_data(mask)
    coarse = 1
    while len(text) > LONGEST_PATH and coarse < 64:
        coarse *= 2
        thin = mask[coarse // 2 :: coarse, coarse // 2 :: coarse]
        text = _path_data(np.kron(thin, np.ones((coarse, coarse), bool))[: mask.shape[0], : mask.shape[1]])
    return text


def _path_data(mask: np.ndarray) -> str:
    parts = []
    for polygon in outlines(mask):
        steps = np.diff(polygon, axis=0)
        parts.append("M" + ",".join(map(str, polygon[0])) + "l" + " ".join(f"{x},{y}" for x, y in steps) + "z")
    return "".join(parts)


def colour(c: int) -> str:
    """Of a class, as #rrggbb."""
    return IGNORED if c == 255 else "#{:02x}{:02x}{:02x}".format(*map(int, colour_of(c)))


def data_uri(picture: np.ndarray) -> str:
    """(H, W, 3) uint8 as a JPEG inside a page."""
    flat = bool((picture == picture[..., :1]).all())
    out = io.BytesIO()
    Image.fromarray(picture[..., 0] if flat else picture).save(out, "JPEG", quality=88, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


# The figure that papers print


def figure(table: Table, name: str, shown: Sequence[Example]) -> Drawing:
    """Rows: cases; columns: image, reference, and one a method, with its Dice in the corner; the reference's outline in white."""
    rows = [row for row in table.rows if any(row.key in one.tiles for one in shown)]
    columns = 2 + len(rows)
    side = min(1.35, 11 / columns)
    tall = [side * one.image.shape[0] / (one.image.shape[1] * one.aspect) for one in shown]
    gap, left, head, foot = 0.04, 0.32, 0.3, 0.36
    width, height = left + columns * (side + gap), head + sum(tall) + gap * len(shown) + foot
    made = Figure((width, height))
    top = height - head
    for one, high in zip(shown, tall):
        top -= high
        panels: list[tuple[np.ndarray | None, float | None, bool]] = [(np.zeros_like(one.reference), None, False)]
        panels.append((one.reference, None, False))
        panels += [(tile.labels, tile.dice, True) if (tile := one.tiles.get(row.key)) else (None, None, False) for row in rows]
        for k, (labels, dice, against) in enumerate(panels):
            axis = made.add_axes(((left + k * (side + gap)) / width, top / height, side / width, high / height))
            axis.axis("off")
            if labels is None:
                axis.text(0.5, 0.5, "not at hand", ha="center", va="center", fontsize=7, color=MUTED, transform=axis.transAxes)
                continue
            size = one.image.shape
            axis.imshow(one.image, extent=(0, 2 * size[1], 2 * size[0], 0), aspect="auto", interpolation="bilinear")
            for c in np.unique(labels[labels > 0]):
                tint = colour(int(c))
                axis.add_patch(PathPatch(_compound(labels == c), facecolor=(tint, 0.3), edgecolor=tint, linewidth=0.8))
            if against:
                for c in np.unique(one.reference[(one.reference > 0) & (one.reference != 255)]):
                    axis.add_patch(PathPatch(_compound(one.reference == c), fill=False, edgecolor="white", linewidth=0.6))
                axis.text(0.96, 0.05, "–" if dice is None else f"{100 * dice:.1f}", ha="right", va="bottom", fontsize=7.5, color="white",
                          transform=axis.transAxes, bbox=dict(facecolor="black", alpha=0.45, linewidth=0, pad=1.4))
        made.text((left - 0.06) / width, (top + high / 2) / height, f"{short(one.case, 24)}\n{short(one.why, 26)}", rotation=90, ha="right",
                  va="center", fontsize=6, color=MUTED)
        top -= gap
    for k, title in enumerate(["image", "reference", *(row.label for row in rows)]):
        made.text((left + k * (side + gap) + side / 2) / width, 1 - 0.22 / height, short(title, round(13 * side)), ha="center", va="bottom",
                  fontsize=8, color=INK)
    handles = [Rectangle((0, 0), 1, 1, color=colour(c)) for c in range(1, len(table.classes) + 1)]
    handles.append(Rectangle((0, 0), 1, 1, facecolor="#777777", edgecolor="white"))
    made.legend(handles, [*table.classes, "white line: reference"], loc="lower center", ncols=min(len(handles), 6), fontsize=8,
                handlelength=1.1)
    words = f"{table.data_set}, {table.labeled_num} labelled: {len(shown)} cases, image, reference and predictions of {len(rows)} rows"
    return Drawing(file_key(table.key, name), words, made)


def _compound(mask: np.ndarray) -> Outline:
    polygons = outlines(mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        closed = [Outline(np.concatenate([polygon, polygon[:1]]), closed=True) for polygon in polygons]
        return Outline.make_compound_path(*closed) if closed else Outline(np.zeros((0, 2)))
