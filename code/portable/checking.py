"""An exported model held against PyTorch: label maps of real images, and how long one image takes on one core."""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from dataloaders.description import NewImage, Source
from dataloaders.errors import UserError
from dataloaders.layouts.listed import H5_ENDINGS
from inference import Inference, Predictor
from inference.predicting import enlarged
from prediction.inputs import Entry, Reader

CLOSE = 1e-3
"""Difference of the two largest probabilities up to which rounding may decide between two classes."""
PASSES = 9
Labels = Callable[[Sequence[Path]], np.ndarray]
"""Files of an image -> its label map at the size of the file."""


@dataclass
class Checked:
    """What a comparison found."""

    images: int = 0
    pixels: int = 0
    differing: int = 0
    widest: float = 0.0
    """At a pixel that differs: the largest difference between its two largest probabilities."""

    @property
    def sound(self) -> bool:
        return self.widest <= CLOSE

    def __str__(self) -> str:
        what = f"{self.images} image{'s' * (self.images != 1)}, {self.pixels:,} pixels"
        if not self.differing:
            return f"{what}: the label maps are equal"
        return (f"{what}: the label maps are equal but for {self.differing} pixels, where the two likeliest classes are within "
                f"{self.widest:.2g} of each other")


@dataclass(frozen=True)
class Sample:
    """An image of the check: the files that the exported model reads, and the image as the run's reader has it."""

    files: tuple[Path, ...]
    image: NewImage


def files_of(source: Source, names: Sequence[str], most: int) -> list[tuple[Path, ...]]:
    """The files of some of a run's own cases, none of which is tested on."""
    cases = [case for part in ("train", "val") for case in source.cases(part) if case.name in set(names)]
    channels = getattr(source, "channel_files", lambda case: [case.image])
    return [tuple(channels(case)) for case in cases[:: max(1, len(cases) // most)][:most]]


def sample(files: Sequence[Path], reader: Reader, aside: Path) -> Sample:
    """An image by its files; that of an h5 file is written as an array below `aside`, since the exported model reads no h5."""
    image = reader(Entry(files[0].name, tuple(files), files[0].stem))
    if files[0].name.lower().endswith(H5_ENDINGS):
        file = aside / f"{files[0].stem}.npy"
        np.save(file, image.pixels)
        return Sample((file,), image)
    return Sample(tuple(files), image)


def compared(found: Sequence[Sample], inference: Inference, predictor: Predictor, exported: Labels) -> Checked:
    """The label maps of the exported model beside those of `predictor`, which is the run's own."""
    checked = Checked()
    for sample in found:
        image = sample.image
        ours = at_size(inference.labels(predictor, image.pixels), image, inference)
        theirs = exported(sample.files)
        theirs = theirs[None] if theirs.ndim == 2 else theirs
        if ours.shape != theirs.shape:
            raise UserError(f"{sample.files[0]}: PyTorch gives a label map {ours.shape}, the exported model {theirs.shape}.", 3)
        differs = ours != theirs
        checked.images += 1
        checked.pixels += ours.size
        if count := int(differs.sum()):
            shares = np.sort(at_size(inference.probabilities(predictor, image.pixels), image, inference), 0)
            checked.differing += count
            checked.widest = max(checked.widest, float((shares[-1] - shares[-2])[differs].max()))
    return checked


def at_size(maps: np.ndarray, image: NewImage, inference: Inference) -> np.ndarray:
    """At the size of the file, as predict.py writes a mask."""
    size = (image.size[-2], image.size[-1])
    return maps if inference.data.dimensions == 3 or maps.shape[-2:] == size else enlarged(maps, size, "floor")


def on_one_core(inference: Inference, sides: Sequence[int], **runs: Callable[[Any], Any]) -> dict[str, float]:
    """Seconds of work that each of `runs` takes for one input (1, C, *sides) with one thread, the median of some passes, taken in turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = torch.randn((1, inference.data.channels, *sides), generator=torch.Generator().manual_seed(0))
    spent: dict[str, list[float]] = {name: [] for name in runs}
    try:
        for _ in range(PASSES + 2):
            for name, run in runs.items():
                began = time.process_time()
                with torch.no_grad():
                    run(images)
                spent[name].append(time.process_time() - began)
    finally:
        torch.set_num_threads(threads)
    return {name: median(seconds[2:]) for name, seconds in spent.items()}
