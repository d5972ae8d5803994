"""What both testers share: which run, its test cases, its networks, the scores, and what is written of them."""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import path
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dataloaders import catalog
from dataloaders.description import Case, DataSet, Objects
from dataloaders.errors import UserError
from dataloaders.progress import Progress
from dataloaders.reading import EvaluationCase
from dataloaders.splits.split import SplitRequest, check_unseen, test_cases
from evaluation import results
from evaluation.detection import Found, figures_of, found_in
from evaluation.export import read_prediction, write_prediction
from evaluation.objects import objects_in, of_set, with_scores
from inference import Cases, Inference, inference_of, predicted
from inference.cases import Ready
from inference.scoring import Row, case_scores, counts_of, of_matrix
from inference.threads import WORKERS, in_threads
from inference.windows import window_stride
from metrics import largest_component, score_counts, summarize
from metrics.objects import ObjectSums
from pictures.curves import learning_curves
from storage.folders import REPOSITORY
from system.devices import choose_device, peak_memory


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
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: a GPU where there is one (cuda), else the CPU; mps: an Apple GPU."""


@dataclass
class Opened:
    """A finished run with everything that a test of it needs."""

    run: results.TestedRun
    options: Any
    trained: results.Trained
    inference: Inference
    cases: Cases
    """The test cases, all of which have been read and checked."""

    @property
    def data(self) -> DataSet:
        return self.inference.data

    @property
    def classes(self) -> Sequence[str]:
        """Those that are scored: the foreground, or where one matrix scores the set, all."""
        return self.data.classes if self.data.evaluation.scored == "matrix" else self.data.classes[1:]


def open_run(options: TestOptions, dimensions: int, **how: Any) -> Opened:
    """The run that `options` mean, its test cases (all read and checked) and its networks. `how`: `inference_of`'s further arguments;
    `window`: (side, step) of windows over images that are predicted whole.

    Raises `UserError`.
    """
    run = results.choose(options, dimensions)
    config, settings = run.config, run.settings
    print(f"Testing {run.folder}" + ("" if options.run else f" (the newest finished {dimensions}D run that fits)"))
    device = choose_device(options.device)
    window = how.pop("window", None)
    patch = (window[0],) * 2 if window else settings["patch_size"]
    stride = (window[1],) * 2 if window else how.pop("stride", None) or settings["stride"]
    if dimensions == 3:
        check_windows(stride, patch, how["batch"])
    data, root, _ = catalog.resolve(config["data_set"], Path(config["root"]), REPOSITORY)
    source = catalog.open_source(data, root, settings)
    source.data = replace(source.data, white=config.get("white", source.data.white))
    if window:
        source.data = by_window(source.data, *window)
    cases = test_cases(source, SplitRequest.of(settings))
    if not cases:
        raise UserError(f"{config['root']}: the split {config['split']['name']} of {config['data_set']} has no test case.")
    check_unseen(cases, config["split"])
    note_earlier(cases, config)
    trained = results.trained(run, options.checkpoint, device)
    results.check_same_kind(trained, source.data, config["root"])
    if told := results.check_names(config, source.data):
        print(told)
        config["remarks"] = [*config["remarks"], told]
    inference = inference_of(source.data, patch, stride, device, **how)
    streamed = Cases(source, cases, inference)
    streamed.check("test cases", shown=True)
    return Opened(run, options, trained, inference, streamed)


def note_earlier(cases: Sequence[Case], config: dict[str, Any]) -> None:
    """Says, in the result too, how many test cases the run had been trained on before it began: where it started from an earlier one."""
    known = set(config.get("init", {}).get("labeled", ()))
    seen = [case.name for case in cases if case.name in known]
    if seen:
        told = (f"{len(seen)} of {len(cases)} test images were labelled images of the run that this one started from (for example "
                f"{seen[0]}): its scores are too good. Keep test images apart, in test/ or test.txt.")
        print(told)
        config["remarks"] = [*config["remarks"], told]


def by_window(data: DataSet, side: int, step: int) -> DataSet:
    """A data set of photographs whose images are predicted by windows, not whole. Raises `UserError` for others, and for other numbers."""
    if data.evaluation.predicted != "whole":
        raise UserError(f"--window slides over photographs that are predicted whole; those of "
                        f"{data.name} are resized to the training size.")
    if not 1 <= step <= side:
        raise UserError(f"--window {side} {step}: expected the side of a window in pixels, and a step from 1 to that side.")
    return replace(data, evaluation=replace(data.evaluation, predicted="window"))


def check_windows(stride: Sequence[int] | None, patch: Sequence[int], batch: int) -> None:
    """Raises `UserError` for steps of a sliding window that do not fit the patch, or for less than one window at once."""
    steps = window_stride(stride, patch)
    if len(steps) != len(patch) or any(not 1 <= step <= side for step, side in zip(steps, patch)) or batch < 1:
        raise UserError(f"--stride {' '.join(map(str, steps))} --sw_batch {batch}: expected three steps, each from 1 to the patch's side "
                        f"({' '.join(map(str, patch))}), and 1 window or more.")


@dataclass(frozen=True)
class Outcome:
    """What a test keeps of one case."""

    scores: Row
    """Of every class."""
    counts: Row
    """(K, K) pixel counts, where one matrix scores the set."""
    images: dict[str, Found]
    """By size, where the data set has such figures (`Evaluation.detection`)."""
    objects: dict[int, ObjectSums]
    """By label, where objects are told apart."""
    spaced: bool
    """Whether its spacing is known."""
    guessed: bool
    """Whether its files had to be written without."""


def tested(opened: Opened, name: str, nms: bool = False, how: Mapping[str, Any] | None = None,
           objects: Objects | None = None) -> tuple[list[Outcome], dict[str, Any]]:
    """Predicts and scores every test case with the predictor `name`, and writes its result file; the run's own predictor's label maps
    too, each when it is there. Gives what was found case by case, and the summary.

    nms: only the largest component of each class is kept. how: in which way cases were predicted, for the result file. objects: how they
    are told apart, where they are scored too.
    """
    folder = opened.run.folder / "predictions"
    write = name == opened.trained.quoted
    if write:
        folder.mkdir(exist_ok=True)

    def finish(case: tuple[Ready, np.ndarray]) -> Outcome:
        return _outcome(opened, *case, nms, folder if write else None, objects)

    began = time.perf_counter()
    stream = predicted(opened.trained.predictors[name], opened.cases, opened.inference)
    outcomes = list(Progress(in_threads(finish, stream, WORKERS, WORKERS + 2), name, len(opened.cases)))
    cost = {"seconds": time.perf_counter() - began, "peak_memory": peak_memory(opened.inference.device),
            "device": str(opened.inference.device), **(how or {})}
    rows = [outcome.scores for outcome in outcomes]
    summary: dict[str, Any] = summarize(rows, opened.classes)
    if opened.data.evaluation.scored == "matrix":
        for of, found in of_matrix(np.sum([outcome.counts for outcome in outcomes], 0), opened.data.classes).items():
            summary[of] |= {**found, "jaccard": found["miou"]} if of == "mean" else {"dice": found["dice"], "jaccard": found["iou"]}
    images = figures_of([outcome.images for outcome in outcomes], opened.data) if opened.data.evaluation.detection else {}
    of_objects = of_set([outcome.objects for outcome in outcomes], opened.cases.cases, objects, opened.data) if objects else {}
    further = {key: figures for key, figures in (("images", images), ("objects", of_objects)) if figures}
    file = results.record(opened.run, opened.trained, name, opened.options, opened.data.evaluation.best_by, summary, further,
                          opened.cases.cases, opened.classes, rows, cost)
    print(f"Scores of {name}: {file}")
    if write:
        _tell_predictions(opened, folder, sum(outcome.guessed for outcome in outcomes))
    if images:
        print(results.defect_lines(images))
    if of_objects:
        print(results.object_lines(summary, of_objects))
    return outcomes, summary


def _outcome(opened: Opened, ready: Ready, maps: np.ndarray, nms: bool, folder: Path | None, objects: Objects | None) -> Outcome:
    """Of a case whose label maps are there, at the size that the network saw."""
    data, loaded, options = opened.data, ready.loaded, opened.options
    labels = opened.inference.native(maps, loaded.reference.shape)
    if nms:
        labels = largest_component(labels)
    guessed = folder is not None and write_prediction(folder, loaded, labels, data)
    counts = counts_of(labels, loaded.reference, data) if data.evaluation.scored == "matrix" else []
    scores = score_counts(np.array(counts)) if counts else case_scores(labels, loaded, data, options.empty, options.metric_backend, mm=True)
    sizes = {"native": labels, **({"training_size": maps} if opened.inference.how == "resized" else {})}
    images = {size: found_in(of, loaded.reference, data) for size, of in sizes.items()} if data.evaluation.detection else {}
    found = objects_in(labels[0], objects, opened.cases.source, loaded.case) if objects else {}
    return Outcome(with_scores(scores, found, opened.classes, data), counts, images, found, loaded.spacing is not None, guessed)


def _tell_predictions(opened: Opened, folder: Path, guessed: int) -> None:
    print(f"Predictions: {path.relpath(folder)} (<case>_img, _pred, _gt)"
          + (f"; the spacing of {guessed} cases is unknown, their files say 1 mm and that it is not known" if guessed else ""))
    curves = opened.run.folder / "learning_curves.png"
    if learning_curves(opened.run.folder / "metrics.jsonl", curves):
        print(f"Learning curves: {path.relpath(curves)}")


def extremes(opened: Opened, outcomes: Sequence[Outcome]) -> list[tuple[str, EvaluationCase, np.ndarray, float]]:
    """The best, the median and the worst case by Dice: a word, the case, its prediction (read from where it was written), its Dice."""
    dice = [results.case_dice(outcome.scores) for outcome in outcomes]
    order = [i for i in np.argsort(dice) if not np.isnan(dice[i])] or list(range(len(dice)))
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    folder = opened.run.folder / "predictions"
    return [(word, opened.cases.loaded(i), read_prediction(folder, opened.cases.cases[i].name, opened.data), dice[i])
            for word, i in chosen.items()]
