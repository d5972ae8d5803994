"""A finished run on new images: read ahead by threads, predicted in batches, written by threads, noted when it is on disk."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dataloaders.errors import UserError
from dataloaders.layouts.common import unreadable
from dataloaders.listing import real_place
from dataloaders.progress import Progress
from inference.threads import READERS, in_threads
from metrics import largest_component
from prediction import files
from prediction.confidence import figures, look
from prediction.inputs import Entry, shown
from prediction.job import Job, Prediction, Ready, write_out
from prediction.record import Folder, stamp

WRITERS = 3
"""Files written at once."""
NOT_FINITE = "the network's output is not finite for this image"


@dataclass
class Report:
    """How it went."""

    predicted: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """An entry that cannot be predicted, and why."""

    entry: Entry
    why: str


Outcomes = Iterator[tuple[Ready, Prediction] | Refused]


def predict_all(entries: Sequence[Entry], job: Job) -> Report:
    """Predicts every entry. A file that cannot be read, or that gives no finite output, is noted and passed over.

    A command that is interrupted waits for files half written, and for none that were read ahead.
    """
    report = Report()
    ahead = job.batch + 2 * READERS if job.flat else 2
    read = in_threads(lambda entry: _attempt(entry, job), entries, READERS, ahead)
    outcomes = _by_batches(read, job) if job.flat and job.inference.how != "window" else _one_by_one(read, job)
    with Progress[Entry](title="predicting", total=len(entries), unit="file") as bar:
        for row in in_threads(lambda outcome: _written(outcome, job), outcomes, WRITERS, 2 * WRITERS):
            _note(row, job.folder, report)
            bar.update()
    return report


def _written(outcome: tuple[Ready, Prediction] | Refused, job: Job) -> dict[str, Any]:
    """The row of a prediction that is on the disk, or why there is none."""
    if isinstance(outcome, Refused):
        return {"file": outcome.entry.name, "unwritten": outcome.why}
    return write_out(*outcome, job)


def _note(row: dict[str, Any], folder: Folder, report: Report) -> None:
    if "unwritten" in row:
        report.unreadable[row["file"]] = row["unwritten"]
        return
    folder.finished(row)
    report.predicted += 1
    for remark in row["remarks"]:
        report.remarks[remark] = report.remarks.get(remark, 0) + 1


def _attempt(entry: Entry, job: Job) -> Ready | Refused:
    try:
        return prepare(entry, job)
    except Exception as error:  # a foreign file must never end a folder of thousands, whatever a decoder raises
        return Refused(entry, reason(error, entry))


def reason(error: Exception, entry: Entry) -> str:
    """Why a file cannot be predicted, without its path."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):  # the state of the file could not be asked for
        text = str(unreadable(entry.files[0], error))
    for file in entry.files:
        for path in (file, real_place(file)):
            text = text.removeprefix(f"{path}: ")
    return shown(text)


def prepare(entry: Entry, job: Job) -> Ready:
    """Reads an entry and makes it ready for the network. Of a picture the pixels themselves are let go, which may be many."""
    stamped = stamp(entry)
    image = job.reader(entry)
    ready = Ready(entry, stamped, image, job.inference.inputs(image.pixels), image.pixels.shape[2:],
                  look(image.pixels, job.reader.data))
    if image.is_picture:
        if "overlays" in job.save:
            ready.under = files.background(image.pixels)
        image.pixels = image.pixels[:, :, :0, :0].copy()
    return ready


def _by_batches(read: Iterable[Ready | Refused], job: Job) -> Outcomes:
    """Slices resized, or whole: pictures of equal sides are predicted together up to the batch, a volume by itself, as test_2D does."""
    waiting: list[Ready] = []
    for ready in read:
        if isinstance(ready, Refused):
            yield ready
            continue
        sides = ready.inputs.shape[1:]
        together = ready.image.is_picture and len(waiting) < min(job.batch, job.inference.together(sides[1:]))
        if waiting and not (together and waiting[0].image.is_picture and waiting[0].inputs.shape[1:] == sides):
            yield from _together(waiting, job)
            waiting = []
        waiting.append(ready)
    if waiting:
        yield from _together(waiting, job)


def _together(waiting: Sequence[Ready], job: Job) -> Outcomes:
    slices = torch.cat([ready.inputs for ready in waiting])
    step = job.inference.together(slices.shape[2:])
    pieces = [[part.cpu() if len(slices) > step else part for part in _piece(images, job)] for images in slices.split(step)]
    probabilities, finite, *masks = (torch.cat(parts) for parts in zip(*pieces))
    first = 0
    for ready in waiting:
        own = slice(first, first + len(ready.inputs))
        first += len(ready.inputs)
        if not finite[own].all():
            yield Refused(ready.entry, NOT_FINITE)
            continue
        each = [mask[own] for mask in masks]
        shares = probabilities[own].transpose(0, 1)
        told, _ = figures(shares, each[0], each[1:], flat=True)
        yield ready, Prediction(each[0].cpu().numpy(), told, shares.cpu().numpy() if "probabilities" in job.save else None)


@torch.no_grad()
def _piece(slices: Tensor, job: Job) -> list[Tensor]:
    """Probabilities (B, K, h, w), whether each image's logits are finite, the mask of the quoted predictor, those of the networks."""
    quoted, each = job.networks.logits(slices.to(job.inference.device), job.inference.fitting)
    masks = [logits.argmax(1).to(torch.uint8) for logits in [quoted, *each]]
    return [quoted.float().softmax(1), quoted.flatten(1).isfinite().all(1), *masks]


def _one_by_one(read: Iterable[Ready | Refused], job: Job) -> Outcomes:
    """Volumes, and whatever goes by sliding window, as test_3D does: each network by itself."""
    networks, inference = job.networks, job.inference

    def mask_of(maps: Tensor) -> Tensor:
        volume = maps if job.flat else maps[0]
        return torch.from_numpy(largest_component(volume.numpy())) if job.nms else volume

    for ready in read:
        if isinstance(ready, Refused):
            yield ready
            continue
        try:
            scores = inference.scores(networks.modules[networks.quoted], ready.inputs)
            labels = mask_of(scores.argmax(0).to(torch.uint8))
            masks = [labels if name == networks.quoted else mask_of(inference.maps(module, ready.inputs))
                     for name, module in networks.single.items() if len(networks.single) > 1]
        except FloatingPointError:
            yield Refused(ready.entry, NOT_FINITE)
            continue
        shares = scores if job.flat else scores[:, 0]
        told, entropy = figures(shares, labels, masks, flat=job.flat)
        yield ready, Prediction(labels.numpy(), told, shares.numpy() if "probabilities" in job.save else None,
                                entropy.numpy() if "overlays" in job.save and not job.flat else None)
