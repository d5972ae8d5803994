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

import numpy as np
import torch
import tyro

from dataloaders.errors import UserError
from dataloaders.progress import Progress
from evaluation import results
from evaluation.testing import Opened, Rows, Stopwatch, TestOptions, open_run, record, score, write_predictions
from inference.windows import sliding_window, window_stride
from metrics import largest_component
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
    opened = open_run(options, dimensions=3)
    settings, classes = opened.settings, opened.data.num_classes
    patch = settings["patch_size"]
    stride = window_stride(options.stride or settings["stride"], patch)
    if len(stride) != 3 or any(not 1 <= step <= side for step, side in zip(stride, patch)) or options.sw_batch < 1:
        raise UserError(f"--stride {' '.join(map(str, stride))} --sw_batch {options.sw_batch}: expected three steps, each from 1 to the "
                        f"patch's side ({' '.join(map(str, patch))}), and 1 window or more.")
    how = {"patch": list(patch), "stride": list(stride), "gaussian": options.gaussian, "mirror": options.mirror, "nms": options.nms}
    print(f"Sliding window {'x'.join(map(str, patch))}, stride {'x'.join(map(str, stride))}"
          + "".join(f", {name}" for name in ("gaussian", "mirror", "nms") if how[name]))
    table: dict[str, Any] = {}
    for name, network in opened.predictors.items():
        seconds = Stopwatch()
        predicted = []
        for one in Progress(opened.loaded, name):
            labels = sliding_window(network, torch.from_numpy(one.pixels), classes, patch, stride, device=opened.device,
                                    sw_batch=options.sw_batch, gaussian=options.gaussian, mirror=options.mirror).numpy()
            predicted.append(largest_component(labels) if options.nms else labels)
        took = seconds()
        rows = score(predicted, opened)
        table[name] = record(opened, name, rows, took, how=how)
        if len(table) == 1:
            write_predictions(opened, predicted)
            draw(opened, predicted, rows)
    print(results.table(table, [one.spacing for one in opened.loaded], len(opened.loaded), opened.run.config))


def draw(opened: Opened, predicted: Sequence[np.ndarray], rows: Rows) -> None:
    """Of the best, the median and the worst case: three planes and the surfaces, beside the result file."""
    file = result_path(opened.run.folder)
    dice = [results.case_dice(row) for row in rows]
    order = [i for i in np.argsort(dice) if not np.isnan(dice[i])] or list(range(len(dice)))
    for word, i in {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}.items():
        one, title = opened.loaded[i], f"{word}: {opened.loaded[i].case.name}, Dice {dice[i]:.3f}"
        planes, surfaces = (file.with_name(f"{file.stem}_{word}_{kind}.png") for kind in ("planes", "surface"))
        three_planes(planes, one.pixels, one.reference, predicted[i], one.spacing, opened.data.classes, title, one.affine)
        surface(surfaces, one.reference, predicted[i], one.spacing, opened.data.classes, title, one.affine)
    print(f"Pictures of the best, median and worst case: {path.relpath(file.with_suffix(''))}_*_planes.png, _surface.png")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(finish_with(lambda: main(tyro.cli(Test, use_underscores=True, description=__doc__))))
