"""A finished run on new images: masks, overlays, probability maps, and a table of how sure each prediction is, least certain first.

The input is a folder (its subfolders too) or one file: photographs for runs that trained on photographs, NIfTI, .nrrd, .mha or h5 for the
others; each is read and scaled as the run's data set is, and its mask has its size and place. docs/predict.md has examples. The same
command goes on where it stopped. Files that cannot be read are listed at the end.

    python code/predict.py --run model/folder/D/MeanTeacher_all_labeled/unet/drawn_seed1337 --input photographs --output predicted

Exit codes: 0 done, even if some files could not be read; 2 bad arguments, or no file could be read; 75 interrupted (run it again).
"""
from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from os import path
from pathlib import Path
from typing import Any, Literal, cast

import torch
import tyro

from dataloaders import catalog
from dataloaders.errors import UserError
from evaluation import results
from evaluation.testing import check_windows
from inference import inference_of
from inference.windows import window_stride
from prediction.confidence import profile
from prediction.files import sheet
from prediction.inputs import entries_in, reader_for, shown
from prediction.job import Job, Networks, quoted_of
from prediction.loop import Report, predict_all
from prediction.record import SHEET, TABLE, UNREADABLE, Folder
from storage.folders import REPOSITORY
from system.devices import choose_device
from system.ending import finish_with

LISTED = 10
"""Rows and sentences of each kind on the screen."""


@dataclass
class Predict:
    run: Path
    """Folder of the finished run."""
    input: Path
    """Folder with the images, or one image."""
    output: Path
    """Folder for the predictions: a new one, or that of the same command."""
    save: tuple[Literal["masks", "overlays", "probabilities"], ...] = ("masks", "overlays")
    """What is written of each image: masks of class ids, overlays to look at, probability maps."""
    predictor: str | None = None
    """Another of the run's networks or ensembles than the one it quotes."""
    checkpoint: Literal["best", "last"] = "best"
    """best: chosen on validation cases (protocols without validation: the last step); last: the last step in any case."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: a GPU where there is one (cuda), else the CPU; mps: an Apple GPU."""
    batch: int | None = None
    """Pictures predicted at once. Without it: 32 on a GPU, 1 on a CPU."""
    stride: tuple[int, ...] | None = None
    """3D: step of the sliding window along x y z. Without it: that of the training."""
    sw_batch: int = 4
    """3D: windows predicted at once."""
    gaussian: bool = False
    """3D: windows count more at their centre."""
    mirror: bool = False
    """3D: mean over the eight mirrored versions of each window; takes eight times as long."""
    nms: bool = False
    """3D: keep the largest component of each class alone."""


def main(options: Predict) -> None:
    run = results.finished(options.run)
    device = choose_device(options.device)
    trained = results.trained(run, options.checkpoint, device)
    networks = Networks(trained.predictors, quoted_of(trained.predictors, options.predictor))
    reader = reader_for(run.config, cast(Any, next(iter(networks.single.values()))).spec["arguments"])
    data, window = reader.data, window_of(options, run)
    if reader.remark:
        print(reader.remark)
    batch = options.batch or (1 if device.type == "cpu" else 32)
    if batch < 1 or not options.save:
        raise UserError(f"--batch {batch} --save {' '.join(options.save)}: expected 1 or more, and something to write.")
    entries, others = entries_in(options.input, reader, options.output)
    folder = Folder(options.output, {
        "run": str(run.folder.resolve()), "weights": trained.weights, "predictor": networks.quoted, "checkpoint": options.checkpoint,
        "input": str(options.input.resolve()), "save": sorted(options.save),
        "window": window, "classes": list(data.classes)})
    try:
        ahead = [entry for entry in entries if not folder.is_done(entry)]
        print(f"{run.config['method']} on {run.config['data_set']} ({networks.quoted}), {len(entries)} "
              f"{'image' if data.dimensions == 2 else 'volume'}{'s' * (len(entries) != 1)} in {shown(options.input)}"
              + (f", {len(entries) - len(ahead)} of them predicted already" if len(ahead) < len(entries) else "") + f", on {device}.")
        if others:
            print("Passed over: " + ", ".join(f"{count} {shown(ending)}" for ending, count in others.most_common(LISTED)) + ".")
        known = folder.remembered("training", lambda: training_of(run))
        at_once = options.sw_batch if data.evaluation.predicted == "window" else None
        inference = inference_of(data, run.settings["patch_size"], window.get("stride"), device, at_once, options.mirror, options.gaussian)
        job = Job(reader, networks, inference, options.save, batch, options.nms, known, folder, folder.names(entries))
        began = time.perf_counter()
        report = predict_all(ahead, job)
        seconds = time.perf_counter() - began
        rows = folder.tables(entries, data.classes, report.unreadable)
        if rows and "overlays" in options.save:
            sheet(options.output / SHEET, rows, options.output, data.classes)
        tell(report, rows, options, seconds)
    finally:
        folder.close()
    if not rows:
        raise UserError(f"{shown(options.input)}: none of {len(entries)} files could be read; "
                        f"{shown(options.output / UNREADABLE)} says why.")


def window_of(options: Predict, run: results.TestedRun) -> dict[str, Any]:
    """How a 3D run's sliding window goes; empty for a 2D run. Raises `UserError` for options that do not fit the run."""
    given = [name for name in ("stride", "gaussian", "mirror", "nms") if getattr(options, name)]
    if run.config["dimensions"] == 2:
        if given:
            raise UserError(f"--{given[0]}: for runs on volumes; {options.run} predicts slices.")
        return {}
    patch = run.settings["patch_size"]
    stride = window_stride(options.stride or run.settings["stride"], patch)
    check_windows(stride, patch, options.sw_batch)
    return {"stride": list(stride), "gaussian": options.gaussian, "mirror": options.mirror, "nms": options.nms}


def training_of(run: results.TestedRun) -> dict[str, Any]:
    """`profile` of the run's labelled training cases; of none where its data are no longer there."""
    try:
        config, root = run.config, Path(run.config["root"])
        if not root.is_dir():
            raise UserError(f"{root}: there is no such folder.")
        data, root, _ = catalog.resolve(config["data_set"], root, REPOSITORY)
        return profile(catalog.open_source(data, root, run.settings), config["split"]["labeled"])
    except UserError as error:
        print(f"The training data cannot be read, so nothing is compared with them ({shown(error)})")
        return {"cases": 0}


def tell(report: Report, rows: list[dict[str, Any]], options: Predict, seconds: float) -> None:
    """The end of the screen: how many, the least certain, what was changed in reading, what could not be read."""
    pace = seconds / max(report.predicted, 1)
    rate = f" in {seconds:.0f} s ({f'{1 / pace:.1f} a second' if pace < 1 else f'{pace:.1f} s each'})" if report.predicted else ""
    print(f"Predicted {report.predicted}{rate}: {shown(path.relpath(options.output))} ({', '.join(sorted(options.save))}).")
    for remark, count in report.remarks.items():
        print(f"  {count} {'was' if count == 1 else 'were'} {remark}")
    if rows:
        print(f"Least certain first (all in {TABLE}" + (f", a dozen in {SHEET}" if "overlays" in options.save else "") + "):")
        print(f"  {'confidence':>10} {'entropy':>8} {'at borders':>10} {'disagree':>8}  file")
        for row in rows[:LISTED]:
            numbers = [f"{'-' if row[key] is None else format(row[key], '.3f'):>{width}}" for key, width in
                       (("confidence", 10), ("entropy", 8), ("border_entropy", 10), ("disagreement", 8))]
            flags = f"  ({'; '.join(row['flags'])})" if row["flags"] else ""
            print(f"  {' '.join(numbers)}  {shown(row['file'])}{flags}")
    if report.unreadable:
        print(f"{len(report.unreadable)} could not be predicted (all in {UNREADABLE}):")
        for name, why in list(report.unreadable.items())[:LISTED]:
            print(f"  {shown(name)}: {why}")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(finish_with(lambda: main(tyro.cli(Predict, use_underscores=True, description=__doc__))))
