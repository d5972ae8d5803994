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
from typing import Any

import numpy as np
import torch
import tyro

from dataloaders.description import DataSet
from dataloaders.progress import Progress
from dataloaders.reading import EvaluationCase
from dataloaders.zoom import resize_nearest
from evaluation import results
from evaluation.testing import Stopwatch, TestOptions, open_run, record, score, write_predictions
from metrics import confusion_matrix, dataset_overlap, image_detection, image_flags, simeps_metrics
from pictures.sheets import case_sheet
from system.ending import finish_with
from val_2D import predict_case


@dataclass
class Test(TestOptions):
    batch: int = 32
    """Slices predicted at once."""


def main(options: Test) -> None:
    opened = open_run(options, dimensions=2)
    run, data, loaded = opened.run, opened.data, opened.loaded
    table = {}
    for name, network in opened.predictors.items():
        seconds = Stopwatch()
        pairs = [predict_case(network, one, opened.settings["patch_size"], opened.device, data, options.batch)
                 for one in Progress(loaded, name)]
        small, native = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        took = seconds()
        rows = score(native, opened)
        extra = images_of_defects(native, small, loaded, data) if data.evaluation.detection else {}
        table[name] = record(opened, name, rows, took, extra)
        if len(table) == 1:
            write_predictions(opened, native)
            sheet = run.folder / "best_median_worst.png"
            case_sheet(sheet, native, loaded, [results.case_dice(row) for row in rows], data.classes)
            print(f"Best, median and worst case: {path.relpath(sheet)}")
        if extra:
            print(results.defect_lines(extra))
    if data.evaluation.detection:
        print(results.overlap_table(table, len(loaded), run.config))
    else:
        print(results.table(table, [one.spacing for one in loaded], len(loaded), run.config))


def images_of_defects(native: list[np.ndarray], small: list[np.ndarray], loaded: list[EvaluationCase], data: DataSet) -> dict[str, Any]:
    """What defect papers report, at native and at training size: the published per-image means, one confusion matrix over the whole
    set, images found and false alarms."""
    references = [one.reference for one in loaded]
    resized = [resize_nearest(reference, maps.shape[1:], data.resizing) for reference, maps in zip(references, small)]
    found: dict[str, Any] = {}
    for size, predictions, truths in (("native", native, references), ("training_size", small, resized)):
        matrix = sum(confusion_matrix(p, r, data.num_classes) for p, r in zip(predictions, truths))
        per_image = np.array([simeps_metrics(p, r, data.num_classes) for p, r in zip(predictions, truths)])
        with_defect = per_image[~np.isnan(per_image[:, 0])]
        means = with_defect.mean(0).tolist() if len(with_defect) else [None] * 3
        flags = [image_flags(p, r, data.num_classes, data.ignored) for p, r in zip(predictions, truths)]
        found[size] = {
            "per_image": {"miou": means[0], "mdice": means[1], "accuracy": means[2], "images": len(with_defect)},
            "data_set": dataset_overlap(matrix, data.classes),  # type: ignore[arg-type]
            "detection": image_detection(flags, data.classes[1:]),
        }
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(finish_with(lambda: main(tyro.cli(Test, use_underscores=True, description=__doc__))))
