"""Test a finished 2D run: scores, predictions, pictures.

Without an option it takes the newest finished 2D run and says which. Scores go to results/ under the run's own path (JSON, one
file a predictor), predictions and pictures into the run's folder.

    python code/test_2D.py
    python code/test_2D.py --run model/ACDC/simEps_7_labeled/unet/official_seed1337
    python code/test_2D.py --exp ACDC/simEps --labeled_num 7 --seed 1337
"""
from __future__ import annotations

import sys
from dataclasses import dataclass
from os import path
from typing import Any, Literal

import torch
import tyro

from evaluation import results
from evaluation.objects import objects_of
from evaluation.testing import TestOptions, extremes, open_run, tested
from pictures.sheets import case_sheet
from system.ending import finish_with


@dataclass
class Test(TestOptions):
    batch: int = 32
    """Slices predicted at once."""
    mirror: bool = False
    """Mean over the four mirrored versions of each slice (published: no)."""
    window: tuple[int, int] | None = None
    """Photographs: side and step of a window that slides over the image, in place of the whole image in one pass (Cityscapes: 801 534)."""
    border: Literal["cut", "shifted"] = "cut"
    """The last windows end with the image and are smaller (UniMatch, DSSN), or are shifted back (UniMatch V2: --window 798 532)."""
    grow: int | None = None
    """Data sets of objects: radius in pixels of the disk by which predicted objects grow, in place of the published one."""


def main(options: Test) -> None:
    opened = open_run(options, dimensions=2, batch=options.batch, mirror=options.mirror, window=options.window,
                      cut=options.window is not None and options.border == "cut")
    data, cases, config = opened.data, len(opened.cases), opened.run.config
    objects = objects_of(data, options.grow)
    how: dict[str, Any] = ({"mirror": True} if options.mirror else {}) | ({} if options.grow is None else {"grow": options.grow})
    if options.window:
        how |= {"window": list(options.window), "border": options.border}
        print(f"Windows of {options.window[0]}, step {options.window[1]}, {options.border} at the border")
    table: dict[str, Any] = {}
    spaced = []
    for name in opened.trained.predictors:
        outcomes, table[name] = tested(opened, name, how=how, objects=objects)
        if len(table) == 1:
            spaced = [outcome.spaced for outcome in outcomes]
            sheet = opened.run.folder / "best_median_worst.png"
            case_sheet(sheet, extremes(opened, outcomes), data.classes)
            print(f"Best, median and worst case: {path.relpath(sheet)}")
    if data.evaluation.scored == "matrix":
        print(results.matrix_table(table, cases, config))
    elif data.evaluation.detection or objects:
        print(results.overlap_table(table, cases, config))
    else:
        print(results.table(table, spaced, cases, config))


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(finish_with(lambda: main(tyro.cli(Test, use_underscores=True, description=__doc__))))
