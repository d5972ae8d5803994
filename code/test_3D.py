"""Test a finished 3D run: scores, predictions, pictures.

Volumes are predicted by sliding window, with the patch and the stride of the training. Without an option it takes the newest finished
3D run and says which. Scores go to results/ under the run's own path (JSON, one file a predictor) with pictures beside them,
predictions into the run's folder, each in the place of its image.

    python code/test_3D.py
    python code/test_3D.py --run model/LA/UAMT_16_labeled/vnet/official_seed1337 --nms
"""
from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os import path
from typing import Any

import torch
import tyro

from dataloaders.errors import shown
from evaluation import results
from evaluation.testing import Opened, Outcome, TestOptions, extremes, open_run, tested
from pictures.volumes import surface, three_planes
from storage.folders import result_path
from system.ending import finish_with


@dataclass
class Test(TestOptions):
    stride: tuple[int, ...] | None = None
    """Step of the sliding window along x y z. Without it: that of the training."""
    sw_batch: int = 4
    """Windows predicted at once."""
    gaussian: bool = False
    """Windows count more at their centre (published: no)."""
    mirror: bool = False
    """Mean over the eight mirrored versions of each window (published: no)."""
    nms: bool = False
    """Keep the largest component of each class alone."""


def main(options: Test) -> None:
    opened = open_run(options, dimensions=3, stride=options.stride, batch=options.sw_batch, mirror=options.mirror,
                      gaussian=options.gaussian)
    patch, stride = opened.inference.patch_size, opened.inference.stride
    how = {"patch": list(patch), "stride": list(stride), "gaussian": options.gaussian, "mirror": options.mirror, "nms": options.nms}
    print(f"Sliding window {'x'.join(map(str, patch))}, stride {'x'.join(map(str, stride))}"
          + "".join(f", {name}" for name in ("gaussian", "mirror", "nms") if how[name]))
    table: dict[str, Any] = {}
    spaced = []
    for name in opened.trained.predictors:
        outcomes, table[name] = tested(opened, name, options.nms, how)
        if len(table) == 1:
            spaced = [outcome.spaced for outcome in outcomes]
            draw(opened, outcomes)
    print(results.table(table, spaced, len(opened.cases), opened.run.config))


def draw(opened: Opened, outcomes: Sequence[Outcome]) -> None:
    """Of the best, the median and the worst case: three planes and the surfaces, beside the result file."""
    file = result_path(opened.run.folder)
    for word, one, labels, dice in extremes(opened, outcomes):
        title = f"{word}: {shown(one.case.name)}, Dice {dice:.3f}"
        planes, surfaces = (file.with_name(f"{file.stem}_{word}_{kind}.png") for kind in ("planes", "surface"))
        three_planes(planes, one.pixels, one.reference, labels, one.spacing, opened.data.classes, title, one.affine)
        surface(surfaces, one.reference, labels, one.spacing, opened.data.classes, title, one.affine)
    print(f"Pictures of the best, median and worst case: {path.relpath(file.with_suffix(''))}_*_planes.png, _surface.png")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(finish_with(lambda: main(tyro.cli(Test, use_underscores=True, description=__doc__))))
