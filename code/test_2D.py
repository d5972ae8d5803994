"""Test a finished 2D run: scores, predictions, pictures.

Without an option it takes the newest finished 2D run and says which. Scores go to results/ under the run's own path (JSON, one
file a predictor), predictions and pictures into the run's folder.

    python code/test_2D.py
    python code/test_2D.py --run model/ACDC/simEps_7_labeled/unet/official_seed1337
    python code/test_2D.py --exp ACDC/simEps --labeled_num 7 --seed 1337
"""
from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count, path
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from dataloaders import catalog
from dataloaders.augment_draws import RECIPES
from dataloaders.description import DataSet
from dataloaders.errors import Problems, UserError
from dataloaders.splits import test_cases
from dataloaders.zoom import resize_nearest
from engine import results
from engine.export import write_prediction
from engine.options import REPOSITORY
from engine.pictures import case_sheet, learning_curves
from engine.run import finish_with, peak_memory
from engine.session import choose_device
from metrics import confusion_matrix, dataset_overlap, image_detection, image_flags, score_case, simeps_metrics, summarize
from val_2D import EvaluationCase, load_case, predict_slices, to_native


@dataclass
class Test:
    run: Path | None = None
    """Folder of the run. Without it: the newest finished run that fits the options below."""
    exp: str | None = None
    """Only runs of this experiment, as in training."""
    model: str | None = None
    """Only runs of this network."""
    labeled_num: str | None = None
    """Only runs with this label budget."""
    fold: int | None = None
    """Only runs of this fold."""
    seed: int | None = None
    """Only runs of this seed."""
    checkpoint: Literal["best", "last"] = "best"
    """best: chosen on validation cases (protocols without validation: the last step); last: the last step in any case."""
    empty: Literal["penalty", "published"] = "penalty"
    """A class missing in prediction or reference: the image's diagonal as distance, or 0 as older tables have it."""
    metric_backend: Literal["numba", "medpy"] = "numba"
    """medpy computes the same, slowly (GPL; for comparison)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    batch: int = 32
    """Slices predicted at once."""


def main(options: Test) -> None:
    run = results.choose(options, dimensions=2)
    config = run.config
    print(f"Testing {run.folder}" + ("" if options.run else " (the newest finished 2D run that fits)"))
    device = choose_device(options.device)
    settings = config["options"]
    data, root, _ = catalog.resolve(config["data_set"], Path(config["root"]), REPOSITORY)
    source = catalog.open_source(data, root, SimpleNamespace(**settings))
    cases = test_cases(source, settings["protocol"], settings["fold"], settings["folds"], settings["split_seed"])
    if not cases:
        raise UserError(f"{config['root']}: the split {config['split']['name']} of {config['data_set']} has no test case.")
    loaded, problems = [], Problems()
    for case in tqdm(cases, "reading test cases", leave=False, disable=None, delay=1):
        try:
            loaded.append(load_case(source, case, settings["patch_size"]))
        except UserError as error:
            problems.add(error)
    problems.raise_any(f"{config['data_set']}, test cases")

    photographs = source.data.family == "defect" or source.data.layout == "folder"
    predictors = results.predictors(run, options.checkpoint, device)
    table, main_name = {}, next(iter(predictors))
    for name, network in predictors.items():
        began = time.perf_counter()
        shown = tqdm(loaded, name, leave=False, disable=None)
        small = [predict_slices(network, one.slices.to(device), options.batch) for one in shown]
        native = [to_native(maps, one.reference.shape[1:], source.data) for maps, one in zip(small, loaded)]
        seconds = time.perf_counter() - began
        rows = score(native, loaded, source.data, options)
        summary: dict[str, Any] = summarize(rows, source.data.classes[1:])
        extra = {}
        if photographs:
            extra = images_of_defects(native, [maps.cpu().numpy() for maps in small], loaded, source.data)
        table[name] = summary
        result = results.record(run, name, options, summary, extra, [one.case.name for one in loaded], source.data.classes[1:], rows,
                                {"seconds": seconds, "peak_memory": peak_memory(device), "device": str(device)})
        print(f"Scores of {name}: {result}")
        if name == main_name:
            show(run, native, loaded, rows, source.data)
        if extra:
            print(results.defect_lines(extra))
    if photographs:
        print(results.overlap_table(table, len(loaded), config))
    else:
        print(results.table(table, [one.spacing for one in loaded], len(loaded), config))


def score(predicted: list[np.ndarray], loaded: list[EvaluationCase], data: DataSet, options: Test) -> list[list[dict[str, Any]]]:
    """The scores of every class of every case, cases in parallel."""

    def one(pair: tuple[np.ndarray, EvaluationCase]) -> list[dict[str, Any]]:
        maps, case = pair
        flat = data.dimensions == 2 and len(maps) == 1
        prediction, reference = (maps[0], case.reference[0]) if flat else (maps, case.reference)
        spacing = case.spacing[-prediction.ndim :] if case.spacing else None
        return score_case(prediction, reference, data.num_classes, spacing, data.ignored, options.empty, backend=options.metric_backend)

    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        return list(tqdm(pool.map(one, zip(predicted, loaded)), "scoring", len(loaded), leave=False, disable=None))


def images_of_defects(native: list[np.ndarray], small: list[np.ndarray], loaded: list[EvaluationCase], data: DataSet) -> dict[str, Any]:
    """What defect papers report, at native and at training size: the published per-image means, one confusion matrix over the whole
    set, images found and false alarms."""
    mapping = RECIPES[data.augmentation].mapping
    references = [one.reference for one in loaded]
    resized = [resize_nearest(reference, maps.shape[1:], mapping) for reference, maps in zip(references, small)]
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


def show(run: results.TestedRun, predicted: list[np.ndarray], loaded: list[EvaluationCase], rows: list[list[dict[str, Any]]],
         data: DataSet) -> None:
    """Writes the predictions of the method's own predictor, a sheet of the best, median and worst case, and the learning curves."""
    folder = run.folder / "predictions"
    folder.mkdir(exist_ok=True)
    unknown = 0
    for maps, one in zip(tqdm(predicted, "writing predictions", leave=False, disable=None), loaded):
        unknown += write_prediction(folder, one, maps, data)
    print(f"Predictions: {path.relpath(folder)} (<case>_img, _pred, _gt)"
          + (f"; the spacing of {unknown} cases is unknown, their files say 1 mm and that it is not known" if unknown else ""))
    sheet, curves = run.folder / "best_median_worst.png", run.folder / "learning_curves.png"
    case_sheet(sheet, predicted, loaded, [results.case_dice(row) for row in rows], data.classes)
    print(f"Best, median and worst case: {path.relpath(sheet)}")
    if learning_curves(run.folder / "metrics.jsonl", curves):
        print(f"Learning curves: {path.relpath(curves)}")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(finish_with(lambda: main(tyro.cli(Test, use_underscores=True, description=__doc__))))
