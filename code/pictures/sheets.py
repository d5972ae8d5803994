"""Figures: sheets of cases with their colours explained, written as PNG."""
from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from dataloaders.errors import shown
from dataloaders.reading import EvaluationCase, informative_slice
from pictures.flat import colour_of, grey, overlay

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def case_sheet(path: Path, cases: Sequence[tuple[str, EvaluationCase, np.ndarray, float]], classes: Sequence[str]) -> None:
    """A PNG with a row a case (a word for it, the case, its predicted label map, Dice): image, reference, prediction, differences."""
    figure, axes = plt.subplots(len(cases), 4, figsize=(11, 2.9 * len(cases)), squeeze=False)
    for row, (title, one, predicted, dice) in zip(axes, cases):
        k = informative_slice(one.reference)
        image, reference, labels = one.pixels[:, k], one.reference[k], predicted[k]
        wrong = np.where((reference != labels) & (reference != 255), np.where(labels == 0, reference, labels), 0)
        panels = (grey(image), overlay(image, reference), overlay(image, labels), overlay(image, wrong, 0.8))
        where = f", slice {k + 1}" if len(one.reference) > 1 else ""
        names = (f"{title}: {brief(shown(one.case.name))}{where}", "reference", f"prediction, Dice {dice:.3f}", "differences")
        for axis, panel, name in zip(row, panels, names):
            axis.imshow(panel, interpolation="nearest")
            axis.set_title(name, fontsize=8, parse_math=False)
            axis.axis("off")
    legend(figure, classes)
    save_figure(figure, path)


def brief(name: str, most: int = 28) -> str:
    """A name that fits above a panel: the middle of a longer one is left out, for both ends may be what tells cases apart."""
    kept = (most - 1) // 2
    return name if len(name) <= most else f"{name[:kept]}…{name[-kept:]}"


@contextmanager
def any_letters() -> Iterator[None]:
    """While open, nothing is said of names in letters that the font has not: they are the user's, and the screen is no place for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def legend(figure: Any, classes: Sequence[str]) -> None:
    """The classes' colours below a figure."""
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour_of(c) / 255) for c in range(1, len(classes))]
    names = [shown(name) for name in classes[1:]]
    if classes[0] != "background":  # streets have none: what has no colour is a class too
        handles.insert(0, plt.Rectangle((0, 0), 1, 1, facecolor="white", edgecolor="grey"))
        names.insert(0, f"{shown(classes[0])} (no colour)")
    for text in figure.legend(handles, names, loc="lower center", ncols=min(len(handles), 6), frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure as PNG and forgets it."""
    with any_letters():
        figure.tight_layout(rect=(0, 0.04, 1, 1))
        figure.savefig(path, dpi=110)
    plt.close(figure)
