"""What each image looks like, as numbers: of no network, or of a finished run's; and how good the run expects its own prediction to be.

Without a run, three blocks, each scaled to the same weight: the grey picture averaged down to 12 x 12, its gradients' sizes averaged down
to 12 x 12, and the grey values that part its pixels into 16 parts of equal count. They know bright from dark, rough from smooth
and where things lie, and nothing of what things are. With a run: the mean and the largest value of each channel of the network's coarsest
map, over positions and slices.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from advice.question import Question
from dataloaders import catalog
from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.layouts.common import read_picture
from dataloaders.layouts.images import pictures_in
from dataloaders.progress import Progress
from evaluation import results
from inference import Inference, inference_of
from inference.predicting import filled
from networks.ensembles import Ensemble
from prediction.confidence import figures
from prediction.inputs import Entry, reader_for
from preparation.copies import Print, print_of
from storage import checkpoint
from storage.folders import REPOSITORY

SIDE, PARTS = 12, 16
Read = Callable[[], np.ndarray]
"""Gives pixels (C, S, H, W), a picture with S = 1; of volumes (C, X, Y, Z)."""


@dataclass(frozen=True)
class Candidate:
    """An image that may be labelled, or that is."""

    name: str
    file: Path
    group: str
    read: Read
    labeled: bool


@dataclass
class Look:
    """Of one image."""

    candidate: Candidate
    plain: np.ndarray
    """(D,): the blocks without a network, one behind the other; or what the network's map says."""
    print: Print
    expected: float | None = None
    """The Dice that a run expects of its own prediction."""


def candidates_of(question: Question, labeled: Sequence[str] | None = None) -> list[Candidate]:
    """The labelled and the unlabelled images of a question; `labeled`: names of those that a run knows, in place of the question's (of
    somebody's own files beside them, since what has a mask need not be drawn again)."""
    cases = [*question.labeled, *question.unlabeled]
    known = set(labeled or ())
    if labeled is None or question.data.own:
        known |= {case.name for case in question.labeled}

    def reader(case: Case) -> Read:
        def read() -> np.ndarray:
            pixels = question.source.image(case)
            return pixels[:, None] if pixels.ndim == 3 else pixels

        return read

    return [Candidate(case.name, case.image, case.group, reader(case), case.name in known) for case in cases]


def candidates_in(root: Path, reads: Callable[[Path], np.ndarray] = lambda file: read_picture(file, 3)[:, None]) -> list[Candidate]:
    """The pictures of a folder without any mask: of its folder `images`, else of itself. `reads`: gives the pixels of a file, by a run's
    reader where a run looks at them."""
    place = root / "images" if (root / "images").is_dir() else root
    files = pictures_in(place).files
    if not files:
        raise UserError(f"{place}: no pictures in it; expected the images of which some are to be labelled.")

    def reader(file: Path) -> Read:
        return lambda: reads(file)

    return [Candidate(name, file, name, reader(file), False) for name, file in files.items()]


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32 of a picture's mean over channels, or of the middle slice along the shortest axis of a volume."""
    volume = pixels.astype(np.float32).mean(0)
    axis = int(np.argmin(volume.shape))
    return np.asarray(np.take(volume, volume.shape[axis] // 2, axis))


def small(plane: np.ndarray) -> np.ndarray:
    """(SIDE * SIDE,) means of the parts of a plane."""
    return np.asarray(Image.fromarray(plane.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def blocks_of(grey: np.ndarray) -> np.ndarray:
    """(2 SIDE^2 + PARTS - 1,): the picture, its gradients, and the grey values that part its pixels in `PARTS` of equal count."""
    down, across = np.gradient(grey) if min(grey.shape) > 1 else (np.zeros_like(grey), np.zeros_like(grey))
    quantiles = np.quantile(grey, np.linspace(0, 1, PARTS + 1)[1:-1])
    return np.concatenate([small(grey), small(np.hypot(down, across)), quantiles])


def scaled(rows: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """(N, D) features of which each block has mean 0 and the same total variance; `sizes`: of the blocks."""
    centred = rows - rows.mean(0)
    ends = np.cumsum(sizes)
    for end, size in zip(ends, sizes):
        block = centred[:, end - size : end]
        block /= max(float(np.sqrt((block**2).sum(1).mean())), 1e-9)
    return centred


def plain_looks(candidates: Sequence[Candidate]) -> tuple[list[Look], list[str]]:
    """(looks without a network, sentences on images that could not be read)."""
    found, remarks = list[Look](), list[str]()
    for candidate in Progress(candidates, "looking", unit="image"):
        try:
            grey = grey_of(candidate.read())
        except UserError as error:
            remarks.append(str(error))
            continue
        found.append(Look(candidate, blocks_of(grey), print_of(grey[None], None)))
    if found:
        rows = scaled(np.stack([look.plain for look in found]), (SIDE**2, SIDE**2, PARTS - 1))
        for look, row in zip(found, rows):
            look.plain = row
    return found, remarks


@dataclass(frozen=True)
class Knowing:
    """A finished run as it looks at images."""

    predictor: Any
    encoder: Any
    """The first of its networks that encodes; None where none does."""
    inference: Inference


def knowing(run: results.TestedRun, device: torch.device) -> Knowing:
    """The networks of a run, and how they predict. Raises `UserError` where its data are not there."""
    trained = results.trained(run, "best", device)
    config, settings = run.config, run.settings
    data, root, _ = catalog.resolve(config["data_set"], Path(config["root"]), REPOSITORY)
    source = catalog.open_source(data, root, settings)
    results.check_same_kind(trained, source.data, config["root"])
    described = replace(source.data, white=config.get("white", source.data.white))
    at_once = None if described.dimensions == 2 else 2
    inference = inference_of(described, settings["patch_size"], settings["stride"], device, at_once)
    single = [one for one in trained.predictors.values() if not isinstance(one, Ensemble) and hasattr(one, "encode")]
    return Knowing(trained.predictors[trained.quoted], single[0] if single else None, inference)


def reader_of(run: results.TestedRun) -> Callable[[Path], np.ndarray]:
    """Gives the pixels of a file as the run's own reader has them: its channels, its white."""
    best = checkpoint.load(run.folder / "best.pt")
    reader = reader_for(run.config, next(iter(best["predictors"].values()))["network"]["arguments"])
    return lambda file: reader(Entry(file.name, (file,), file.stem)).pixels


def looks_of(run: Knowing, candidates: Sequence[Candidate]) -> tuple[list[Look], list[str]]:
    """(looks by the run's network with what it expects of its predictions, sentences on images that could not be read).

    A volume that is predicted by window is looked at in its middle window.
    """
    found, remarks, rows = list[Look](), list[str](), list[np.ndarray]()
    flat = run.inference.data.dimensions == 2
    for candidate in Progress(candidates, "looking", unit="image"):
        try:
            pixels = candidate.read()
            inputs = run.inference.inputs(pixels)
            probabilities = run.inference.scores(run.predictor, inputs)
        except (UserError, FloatingPointError) as error:
            remarks.append(f"{candidate.name}: {error}" if isinstance(error, FloatingPointError) else str(error))
            continue
        probabilities = probabilities if flat else probabilities[:, 0]
        labels = probabilities.argmax(0).to(torch.uint8)
        told, _ = figures(probabilities, labels, (), flat)
        grey = grey_of(pixels)
        rows.append(_map_of(run, inputs) if run.encoder is not None else blocks_of(grey))
        found.append(Look(candidate, rows[-1], print_of(grey[None], None), told.confidence))
    if found:
        table = np.stack(rows)
        deviation = np.maximum(table.std(0), 1e-6)
        for look, row in zip(found, (table - table.mean(0)) / deviation):
            look.plain = row
    return found, remarks


@torch.no_grad()
def _map_of(run: Knowing, inputs: torch.Tensor) -> np.ndarray:
    """(2 C,): mean and largest value of each channel of the coarsest map, over positions and slices."""
    parts = _parts(run.inference, inputs, run.encoder.multiple)
    maps = [run.encoder.encode(part.to(run.inference.device))[-1].flatten(2) for part in parts]
    mean = torch.stack([one.mean(2).mean(0) for one in maps]).mean(0)
    most = torch.stack([one.amax(2).amax(0) for one in maps]).amax(0)
    return torch.cat([mean, most]).float().cpu().numpy()


def _parts(inference: Inference, inputs: torch.Tensor, multiple: Any) -> Iterator[torch.Tensor]:
    """What the encoder is handed: batches of slices, whole images filled up, or a volume's middle window."""
    if inference.how == "window":
        window = inputs
        for axis, side in enumerate(inference.patch_size, 2):
            length = window.shape[axis]
            if length > side:
                window = window.narrow(axis, (length - side) // 2, side)
        yield filled_to(window, inference.patch_size)
    else:
        for images in inputs.split(inference.together(inputs.shape[2:])):
            yield filled(images, multiple) if inference.how == "whole" else images


def filled_to(images: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """(B, C, *sides), the border repeated up to these sides."""
    missing = [max(side - there, 0) for side, there in zip(sides, images.shape[2:])]
    pad = [n for more in missing[::-1] for n in (0, more)]
    return torch.nn.functional.pad(images, pad, mode="replicate") if any(missing) else images
