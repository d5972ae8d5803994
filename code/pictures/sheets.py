"""Figures: sheets of cases with their colours explained, written as PNG."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from dataloaders.reading import EvaluationCase
from pictures.flat import colour_of, grey, overlay
from val_2D import informative_slice

matplotlib.use("Agg")
from matplotlib import pyplot as plt


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
