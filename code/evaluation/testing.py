"""What both testers share: which run, its test cases, its networks, the scores, and what is written of them."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count, path
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dataloaders import catalog
from dataloaders.description import DataSet, Source
from dataloaders.errors import UserError
from dataloaders.progress import Progress
from dataloaders.reading import EvaluationCase, load_cases
from dataloaders.splits.split import SplitRequest, check_unseen, test_cases
from evaluation import results
from evaluation.export import write_prediction
from metrics import score_case, summarize
from pictures.curves import learning_curves
from storage.folders import REPOSITORY
from system.devices import choose_device, peak_memory

Rows = list[list[dict[str, Any]]]
"""The scores of every class of every case."""


@dataclass
class TestOptions:
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


@dataclass
class Opened:
    """A finished run with everything that a test of it needs."""

    run: results.TestedRun
    options: Any
    device: torch.device
    source: Source
    loaded: list[EvaluationCase]
    predictors: dict[str, Callable[[torch.Tensor], Any]]
    """The method's own first."""

    @property
    def data(self) -> DataSet:
        return self.source.data

    @property
    def settings(self) -> dict[str, Any]:
        """The options of the training."""
        return self.run.config["options"]


def open_run(options: TestOptions, dimensions: int) -> Opened:
    """The run that `options` mean, its test cases (all read and checked) and its networks. Raises `UserError`."""
    run = results.choose(options, dimensions)
    config = run.config
    print(f"Testing {run.folder}" + ("" if options.run else f" (the newest finished {dimensions}D run that fits)"))
    device = choose_device(options.device)
    settings = config["options"]
    data, root, _ = catalog.resolve(config["data_set"], Path(config["root"]), REPOSITORY)
    source = catalog.open_source(data, root, settings)
    cases = test_cases(source, SplitRequest.of(settings))
    if not cases:
        raise UserError(f"{config['root']}: the split {config['split']['name']} of {config['data_set']} has no test case.")
    check_unseen(cases, config["split"])
    loaded = load_cases(source, Progress(cases, "reading test cases"), "test cases")
    return Opened(run, options, device, source, loaded, results.predictors(run, options.checkpoint, device))


def score(predicted: Sequence[np.ndarray], opened: Opened) -> Rows:
    """The scores of every class of every case, cases in parallel."""
    data, options = opened.data, opened.options

    def one(pair: tuple[np.ndarray, EvaluationCase]) -> list[dict[str, Any]]:
        maps, case = pair
        flat = data.dimensions == 2 and len(maps) == 1
        prediction, reference = (maps[0], case.reference[0]) if flat else (maps, case.reference)
        spacing = case.spacing[-prediction.ndim :] if case.spacing else None
        return score_case(prediction, reference, data.num_classes, spacing, data.ignored, options.empty, backend=options.metric_backend)

    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        return list(Progress(pool.map(one, zip(predicted, opened.loaded)), "scoring", len(opened.loaded)))


def record(opened: Opened, name: str, rows: Rows, seconds: float, extra: Mapping[str, Any] | None = None,
           how: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Writes the result file of a predictor, says where, and gives its summary. `how`: in which way cases were predicted."""
    summary: dict[str, Any] = summarize(rows, opened.data.classes[1:])
    cost = {"seconds": seconds, "peak_memory": peak_memory(opened.device), "device": str(opened.device), **(how or {})}
    file = results.record(opened.run, name, opened.options, summary, extra or {}, [one.case for one in opened.loaded],
                          opened.data.classes[1:], rows, cost)
    print(f"Scores of {name}: {file}")
    return summary


def write_predictions(opened: Opened, predicted: Sequence[np.ndarray]) -> None:
    """Images, predictions and references as files in the run's folder, and the run's learning curves."""
    folder = opened.run.folder / "predictions"
    folder.mkdir(exist_ok=True)
    unknown = 0
    for maps, one in zip(Progress(predicted, "writing predictions"), opened.loaded):
        unknown += write_prediction(folder, one, maps, opened.data)
    print(f"Predictions: {path.relpath(folder)} (<case>_img, _pred, _gt)"
          + (f"; the spacing of {unknown} cases is unknown, their files say 1 mm and that it is not known" if unknown else ""))
    curves = opened.run.folder / "learning_curves.png"
    if learning_curves(opened.run.folder / "metrics.jsonl", curves):
        print(f"Learning curves: {path.relpath(curves)}")


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self.began
