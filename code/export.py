"""A finished run as a file that needs none of this program: ONNX, with a small predict_onnx.py beside it, or torch.export.

    python code/export.py --run model/folder/D/MeanTeacher_all_labeled/unet/drawn_seed1337

writes model.onnx and predict_onnx.py (numpy, pillow and onnxruntime are all that it needs) into `exported/` of the run's folder. What is
done before and after the network stands in the file's metadata. The command checks what it wrote: label maps of the run's own images beside
PyTorch's, and the time of one image on one core. A file that fails the check is not kept. The `batch` may have any size.

Exit codes: 0 done and checked; 2 bad arguments, or something is not installed; 3 the network cannot be converted, or the check failed.
"""
from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from os import path
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import tyro

from dataloaders import catalog
from dataloaders.errors import UserError, shown
from evaluation import results
from inference import Inference, inference_of
from portable import checking, predict_onnx
from portable.description import described, steps_of
from portable.formats import needs_onnx, write_onnx, write_program
from prediction.inputs import Reader, entries_in, reader_for
from prediction.job import Networks, quoted_of
from storage import provenance
from storage.folders import REPOSITORY
from system.ending import finish_with

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}


@dataclass
class Export:
    run: Path
    """Folder of the finished run."""
    output: Path | None = None
    """Folder for the files. Without it: exported/ in the run's folder."""
    format: Literal["onnx", "torch_export"] = "onnx"
    """onnx: for any program with ONNX Runtime; torch_export: for programs with torch."""
    predictor: str | None = None
    """Another of the run's networks or ensembles than the one it quotes."""
    checkpoint: Literal["best", "last"] = "best"
    """best: chosen on validation cases; last: the last step."""
    images: Path | None = None
    """Images for the check. Without it: labelled and validation images of the run, none that is tested on."""
    check: int = 8
    """How many images are checked."""


def main(options: Export) -> None:
    run = results.finished(options.run)
    if options.format == "onnx":
        needs_onnx()
    if options.check < 1:
        raise UserError(f"--check {options.check}: expected 1 or more; a model that nobody has checked is not written.")
    device = torch.device("cpu")
    trained = results.trained(run, options.checkpoint, device)
    quoted = quoted_of(trained.predictors, options.predictor)
    networks = Networks(trained.predictors, quoted)
    reader = reader_for(run.config, cast(Any, next(iter(networks.single.values()))).spec["arguments"])
    if reader.remark:
        print(reader.remark)
    inference = inference_of(reader.data, run.settings["patch_size"], run.settings["stride"], device)
    predictor = trained.predictors[quoted]
    told = described(inference, predictor, {
        "method": run.config["method"], "data_set": run.config["data_set"], "predictor": quoted, "checkpoint": options.checkpoint,
        "run": shown(run.folder.name), "weights": trained.weights, "commit": provenance.commit(),
        "torch": torch.__version__})
    folder = options.output or run.folder / "exported"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); give another folder with --output.") from None
    print(f"{run.config['method']} on {run.config['data_set']} ({quoted}): {'; '.join(steps_of(told))}.", flush=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as place:
        aside = Path(place)
        found = of_run(options, run, reader, aside)
        fresh = results.trained(run, options.checkpoint, device).predictors[quoted]  # for the converter, which takes it apart
        file = aside / FILES[options.format]
        if options.format == "onnx":
            kind = f"ONNX, opset {write_onnx(fresh, inference, told, file)}"
            model = predict_onnx.Model(file, threads=1)
            labels = by_script(model)
            passed = {"ONNX Runtime": lambda images: model.run(images.numpy())}
        else:
            kind = "torch.export"
            write_program(fresh, inference, told, file)
            program = loaded(file, predictor)
            labels = by_program(program, found, inference)
            passed = {"torch.export": program}
        checked = checking.compared(found, inference, predictor, labels)
        if not checked.sound:
            raise UserError(f"The check failed on {checked}. Nothing was written; please report it with the run's config.json.", 3)
        target = folder / FILES[options.format]
        os.replace(file, target)
        if options.format == "onnx":
            shutil.copyfile(predict_onnx.__file__, folder / "predict_onnx.py")
        print(f"Written: {shown(path.relpath(target))} ({kind}, {target.stat().st_size / 2**20:.1f} MiB).")
        print(f"Checked on {checked}.", flush=True)
        sides = [4 * side for side in told["multiple"]] if inference.how == "whole" else list(inference.patch_size)
        spent = checking.on_one_core(inference, sides, PyTorch=predictor, **passed)
        print(f"One input of {'x'.join(map(str, (reader.data.channels, *sides)))} on one core: "
              + ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in spent.items()) + ".")
    if options.format == "onnx":
        script, model_file = (shlex.quote(shown(path.relpath(folder / name))) for name in ("predict_onnx.py", FILES["onnx"]))
        print(f"Next: python {script} {model_file} IMAGES OUTPUT")


def loaded(file: Path, predictor: Any) -> Any:
    """The program of a file as `inference` calls it."""
    module = torch.export.load(file).module()

    def predict(images: torch.Tensor) -> torch.Tensor:
        return module(images.contiguous())

    predict.multiple = predictor.multiple  # type: ignore[attr-defined]
    return predict


def by_program(program: Any, found: Sequence[checking.Sample], inference: Inference) -> checking.Labels:
    """Label maps by a program of torch.export; reading and resizing are this program's."""
    images = {sample.files: sample.image for sample in found}

    def labels(files: Sequence[Path]) -> np.ndarray:
        image = images[tuple(files)]
        return checking.at_size(inference.labels(program, image.pixels), image, inference)

    return labels


def by_script(model: predict_onnx.Model) -> checking.Labels:
    """Label maps by predict_onnx.py, the whole way from the files."""
    def labels(files: Sequence[Path]) -> np.ndarray:
        try:
            return model(list(files))
        except predict_onnx.Unreadable as error:
            raise UserError(f"{files[0]}: {error} Give other images for the check, with --images.") from None

    return labels


def of_run(options: Export, run: results.TestedRun, reader: Reader, aside: Path) -> list[checking.Sample]:
    """The images of the check. Raises `UserError` where there are none."""
    if options.images is not None:
        entries, _ = entries_in(options.images, reader, aside, "--images")
        return [checking.sample(entry.files, reader, aside) for entry in entries[: options.check]]
    config, root = run.config, Path(run.config["root"])
    try:
        data, root, _ = catalog.resolve(config["data_set"], root, REPOSITORY)
        source = catalog.open_source(data, root, run.settings)
        files = checking.files_of(source, [*config["split"]["labeled"], *config["split"]["val"]], options.check)
    except UserError as error:
        raise UserError(f"The data of the run cannot be read, and nothing is written unchecked ({shown(error)}) Give images with "
                        "--images.") from None
    if not files:
        raise UserError(f"{root}: none of the run's labelled or validation images is there, and nothing is written unchecked. Give some "
                        "with --images.")
    return [checking.sample(one, reader, aside) for one in files]


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(finish_with(lambda: main(tyro.cli(Export, use_underscores=True, description=__doc__))))
