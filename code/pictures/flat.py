"""Pictures of predictions: contours and colours over images, sheets of cases, learning curves."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy.ndimage import binary_erosion

from dataloaders.reading import EvaluationCase
from val_2D import informative_slice

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = np.array(
    [(0, 0, 0), (230, 75, 53), (77, 187, 213), (0, 160, 135), (243, 155, 46), (132, 94, 194), (126, 97, 72), (220, 0, 120), (60, 84, 136),
     (145, 209, 194), (255, 214, 0)], np.uint8,
)
"""A colour a class, background first; more classes begin again at the second."""


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
    return COLOURS[c if c < len(COLOURS) else 1 + (c - 1) % (len(COLOURS) - 1)]


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


def case_sheet(path: Path, predicted: Sequence[np.ndarray], loaded: Sequence[EvaluationCase], dice: Sequence[float],
               classes: Sequence[str]) -> None:
    """A PNG with the best, the median and the worst case: image, reference, prediction, and where they differ."""
    order = [i for i in np.argsort(dice) if not np.isnan(dice[i])] or list(range(len(loaded)))
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    figure, axes = plt.subplots(len(chosen), 4, figsize=(11, 2.9 * len(chosen)), squeeze=False)
    for row, (title, i) in zip(axes, chosen.items()):
        one, k = loaded[i], informative_slice(loaded[i].reference)
        image, reference, labels = one.pixels[:, k], one.reference[k], predicted[i][k]
        wrong = np.where((reference != labels) & (reference != 255), np.where(labels == 0, reference, labels), 0)
        panels = (grey(image), overlay(image, reference), overlay(image, labels), overlay(image, wrong, 0.8))
        where = f", slice {k + 1}" if len(one.reference) > 1 else ""
        names = (f"{title}: {one.case.name}{where}", "reference", f"prediction, Dice {dice[i]:.3f}", "differences")
        for axis, panel, name in zip(row, panels, names):
            axis.imshow(panel, interpolation="nearest")
            axis.set_title(name, fontsize=8)
            axis.axis("off")
    legend(figure, classes)
    save_figure(figure, path)


def legend(figure: Any, classes: Sequence[str]) -> None:
    """The classes' colours below a figure."""
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour_of(c) / 255) for c in range(1, len(classes))]
    figure.legend(handles, classes[1:], loc="lower center", ncols=min(len(handles), 6), frameon=False, fontsize=8)


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure as PNG and forgets it."""
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


Series = dict[str, list[tuple[int, float]]]
"""By name: (step, value), in order."""


def read_curves(metrics: Path) -> tuple[Series, Series, dict[str, int]]:
    """(losses, validation Dice, ends of stages) from a metrics.jsonl; a stage goes on where the one before it ended.

    What two stages call by one name is told apart: the earlier stage's is "name (stage)".
    """
    losses: Series = {}
    scores: Series = {}
    ends: dict[str, int] = {}
    stage, begin, last = "", 0, 0
    for line in metrics.read_text().splitlines():
        entry = json.loads(line)
        if entry.get("stage", "") != stage:
            if stage:
                ends[stage] = begin + last
            stage, begin, last = entry.get("stage", ""), begin + last, 0
        last, suffix = max(last, entry["step"]), f" ({stage})" if stage else ""
        step = begin + entry["step"]
        if entry["kind"] == "train":
            for name, value in entry.items():
                if name not in ("step", "kind", "stage", "wait_share", "mask_share") and not name.startswith(("lr_", "pseudo_labels")):
                    losses.setdefault(name + suffix, []).append((step, value))
        elif entry["kind"].startswith("validation/"):
            scores.setdefault(entry["kind"].removeprefix("validation/") + suffix, []).append((step, entry["dice/mean"] or 0.0))
    return losses, scores, ends


def learning_curves(metrics: Path, path: Path) -> bool:
    """A PNG of a run's losses and validation Dice; False where there is nothing to draw."""
    if not metrics.exists():
        return False
    losses, scores, ends = read_curves(metrics)
    if not losses and not scores:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, curves, title in ((left, losses, "losses"), (right, scores, "validation Dice")):
        for name, points in curves.items():
            axis.plot(*zip(*points), label=name, linewidth=1.2, marker="o" if len(points) == 1 else None)
        for name, step in ends.items():
            axis.axvline(step, color="grey", linewidth=0.8, linestyle=":")
            axis.annotate(f"{name} ends", (step, 1), xycoords=("data", "axes fraction"), fontsize=6, rotation=90, va="top", ha="right")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.3)
        if curves:
            axis.legend(fontsize=7, frameon=False)
    right.set_ylim(0, 1)
    save_figure(figure, path)
    return True
