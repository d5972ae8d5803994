"""One command of predict.py as data: run, folder and choices; an image on its way; and the files and the row that come of it."""
from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from dataloaders.description import NewImage
from dataloaders.errors import UserError
from inference import Inference, Predictor
from inference.predicting import enlarged
from inference.windows import main_output
from networks.ensembles import Ensemble
from prediction import files
from prediction.confidence import Figures, apart, unlike
from prediction.inputs import Entry, Reader, shown
from prediction.record import Folder


@dataclass(frozen=True)
class Networks:
    """The networks of a run, and which of them, or which ensemble of them, is `quoted`."""

    modules: Mapping[str, nn.Module]
    """By name, in the run's order; ensembles among them."""
    quoted: str

    @property
    def single(self) -> dict[str, nn.Module]:
        """Those that are no ensemble: whose disagreement is told where there are several."""
        return {name: module for name, module in self.modules.items() if not isinstance(module, Ensemble)}

    def logits(self, slices: Tensor, fitting: Callable[[Predictor], Predictor]) -> tuple[Tensor, list[Tensor]]:
        """Of the quoted one, and of each single network, `fitting` to slices of these sides; an ensemble costs no pass of its own."""
        each = {id(module): main_output(fitting(module)(slices)) for module in self.single.values()}
        quoted = self.modules[self.quoted]
        if isinstance(quoted, Ensemble):
            return quoted.combine([each[id(member)] for member in quoted.members]), list(each.values())
        return each[id(quoted)], list(each.values())


def quoted_of(modules: Mapping[str, nn.Module], wanted: str | None) -> str:
    """The predictor that was asked for, else the run's own; raises `UserError` with all names for another."""
    if wanted is None or wanted in modules:
        return wanted or next(iter(modules))
    raise UserError(f"--predictor {wanted}: this run has {', '.join(modules)}.")


@dataclass(frozen=True)
class Job:
    """What all images of a command share."""

    reader: Reader
    networks: Networks
    inference: Inference
    save: Sequence[str]
    batch: int
    """Pictures predicted at once."""
    nms: bool
    """3D: whether only the largest component of each class is kept."""
    known: Mapping[str, Any]
    """`confidence.profile` of the training."""
    folder: Folder
    stems: Mapping[str, str]

    @property
    def flat(self) -> bool:
        return self.reader.data.dimensions == 2


@dataclass
class Ready:
    """An image that has been read: what the network gets, and what its predictions are written with."""

    entry: Entry
    stamp: list[list[int]]
    image: NewImage
    inputs: Tensor
    """What the network is handed (`Inference.inputs`)."""
    inner: tuple[int, ...]
    """(H, W), or (Y, Z), of the pixels as read."""
    seen: tuple[float, float]
    under: np.ndarray | None = None
    """What a picture's overlay is drawn on."""


@dataclass
class Prediction:
    """Of one image, on the host."""

    labels: np.ndarray
    """(S, h, w) at training size, or (X, Y, Z), uint8."""
    told: Figures
    probabilities: np.ndarray | None
    """(K, ...) as `labels`, where they are written."""
    entropy: np.ndarray | None = None


def write_out(ready: Ready, prediction: Prediction, job: Job) -> dict[str, Any]:
    """Writes what is asked for at the size of the file; gives the row of the table, or why nothing could be written."""
    data, image, stem = job.reader.data, ready.image, job.stems[ready.entry.name]
    probabilities = prediction.probabilities
    if probabilities is not None and image.is_picture:
        probabilities = files.sixteen_bits(probabilities)  # before it grows
    labels, probabilities = (_native(array, ready, job) for array in (prediction.labels, probabilities))
    assert labels is not None
    place = {kind: job.folder.place / kind / stem for kind in job.save}
    written: dict[str, list[str]] = {}
    try:
        if "masks" in place:
            written["masks"] = files.write_mask(place["masks"], labels, image, job.flat)
        if "probabilities" in place and probabilities is not None:
            written["probabilities"] = files.write_probabilities(place["probabilities"], probabilities, image, job.flat)
        if "overlays" in place and ready.under is not None:
            written["overlays"] = files.picture_overlay(place["overlays"], ready.under, labels[0])
        elif "overlays" in place and job.flat:
            written["overlays"] = files.slices_overlay(place["overlays"], image.pixels, labels)
        elif "overlays" in place:
            assert prediction.entropy is not None
            written["overlays"] = files.volume_overlay(place["overlays"], image, prediction.labels, prediction.entropy, data,
                                                       shown(ready.entry.name))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return {"file": ready.entry.name, "unwritten": "its name is too long for the files of its predictions; give it a shorter one"}
    shares = dict(zip(data.classes[1:], prediction.told.shares[1:]))
    flags = unlike(job.known, shares, ready.inner, ready.seen) + apart(prediction.told)
    below = stem.rpartition("/")[0]
    return {"file": ready.entry.name, "stamp": ready.stamp, "stem": stem, "size": list(image.size), **asdict(prediction.told),
            "flags": flags, "remarks": image.remarks,
            "written": [f"{kind}/{below + '/' if below else ''}{name}" for kind, names in written.items() for name in names]}


def _native(array: np.ndarray | None, ready: Ready, job: Job) -> np.ndarray | None:
    """(S, h, w) or (K, S, h, w) at training size -> at the size of the file; of 3D runs the part that was predicted -> the whole."""
    image = ready.image
    if array is None or not job.flat:
        if array is None or image.box is None:
            return array
        whole = np.zeros((*array.shape[:-3], *image.size), array.dtype)
        if array.ndim == 4:
            whole[0] = 1
        whole[(..., *image.box)] = array
        return whole
    array = job.inference.native(array, ready.inner)
    size = (image.size[-2], image.size[-1])
    return array if array.shape[-2:] == size else enlarged(array, size, "floor")
