"""A finished run on new images: read ahead by threads, predicted in batches, written by threads, noted when it is on disk."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dataloaders.errors import UserError
from dataloaders.progress import Progress
from inference.windows import sliding_window, sliding_window_scores
from metrics import largest_component
from prediction import files
from prediction.confidence import figures, look
from prediction.inputs import Entry, shown
from prediction.job import Job, Prediction, Ready, write_out
from prediction.record import Folder, stamp
from val_2D import to_training_size

THREADS = 3
"""Files read, and files written, at once."""
SLICES = 32
"""Slices of a volume predicted at once, as test_2D does."""


@dataclass
class Report:
    """How it went."""

    predicted: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)


def predict_all(entries: Sequence[Entry], job: Job) -> Report:
    """Predicts every entry. A file that cannot be read, or that gives no finite output, is noted and passed over."""
    report = Report()
    predict = _slices_of(job) if job.flat else _volumes_of(job)
    # A command that is interrupted waits for files half written, and for none that were read ahead.
    with Progress[Entry](title="predicting", total=len(entries), unit="file") as bar, ThreadPoolExecutor(THREADS) as writers:
        writing: deque[Future[dict[str, Any]]] = deque()
        for ready, outcome in predict(_counted(_ahead(entries, lambda entry: prepare(entry, job), job), report, bar)):
            if isinstance(outcome, str):
                report.unreadable[ready.entry.name] = outcome
            else:
                writing.append(writers.submit(write_out, ready, outcome, job))
            while len(writing) > 2 * THREADS:
                _note(writing.popleft().result(), job.folder, report)
            bar.update()
        while writing:
            _note(writing.popleft().result(), job.folder, report)
    return report


def _counted(read: Iterator[tuple[Entry, Ready | str]], report: Report, bar: Progress) -> Iterator[Ready]:
    """What could be read; the rest goes to the report."""
    for entry, outcome in read:
        if isinstance(outcome, str):
            report.unreadable[entry.name] = outcome
            bar.update()
        else:
            yield outcome


def _note(row: dict[str, Any], folder: Folder, report: Report) -> None:
    if "unwritten" in row:
        report.unreadable[row["file"]] = row["unwritten"]
        return
    folder.finished(row)
    report.predicted += 1
    for remark in row["remarks"]:
        report.remarks[remark] = report.remarks.get(remark, 0) + 1


def _ahead(entries: Sequence[Entry], read: Callable[[Entry], Ready], job: Job) -> Iterator[tuple[Entry, Ready | str]]:
    """Entries in order with what was read, or why it could not be; a few are read ahead (of volumes one)."""
    most = job.batch + 2 * THREADS if job.flat else 2

    def attempt(entry: Entry) -> Ready | str:
        try:
            return read(entry)
        except Exception as error:  # a foreign file must never end a folder of thousands, whatever a decoder raises
            return reason(error, entry)

    with ThreadPoolExecutor(min(THREADS, most)) as pool:
        try:
            waiting: deque[tuple[Entry, Future[Ready | str]]] = deque()
            for entry in entries:
                waiting.append((entry, pool.submit(attempt, entry)))
                if len(waiting) >= most:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def reason(error: Exception, entry: Entry) -> str:
    """Why a file cannot be predicted, without its path."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    for file in entry.files:
        for path in (file, file.resolve()):
            text = text.removeprefix(f"{path}: ")
    return shown(text)


def prepare(entry: Entry, job: Job) -> Ready:
    """Reads an entry and brings it to training size. Of a picture the pixels themselves are let go, which may be many."""
    stamped = stamp(entry)
    image = job.reader(entry)
    ready = Ready(entry, stamped, image, None, image.pixels.shape[2:], look(image.pixels, job.reader.data))
    if job.flat:
        ready.slices = to_training_size(image.pixels, job.reader.data, job.patch)
        if image.is_picture:
            if "overlays" in job.save:
                ready.under = files.background(image.pixels)
            image.pixels = image.pixels[:, :, :0, :0].copy()
    return ready


Outcomes = Callable[[Iterable[Ready]], Iterator[tuple[Ready, Prediction | str]]]
NOT_FINITE = "the network's output is not finite for this image"


def _slices_of(job: Job) -> Outcomes:
    """2D: pictures are predicted together up to the batch, a volume by itself, as test_2D does."""

    def together(waiting: list[Ready]) -> Iterator[tuple[Ready, Prediction | str]]:
        slices = torch.cat([ready.slices for ready in waiting if ready.slices is not None])
        step = SLICES if len(waiting) == 1 else job.batch
        pieces = [[part.cpu() if len(slices) > step else part for part in _piece(slices[k : k + step], job)]
                  for k in range(0, len(slices), step)]
        probabilities, finite, *masks = (torch.cat(parts) for parts in zip(*pieces))
        first = 0
        for ready in waiting:
            assert ready.slices is not None
            own = slice(first, first + len(ready.slices))
            first += len(ready.slices)
            if not finite[own].all():
                yield ready, NOT_FINITE
                continue
            each = [mask[own] for mask in masks]
            shares = probabilities[own].transpose(0, 1)
            told, _ = figures(shares, each[0], each[1:], flat=True)
            yield ready, Prediction(each[0].cpu().numpy(), told, shares.cpu().numpy() if "probabilities" in job.save else None)

    def outcomes(read: Iterable[Ready]) -> Iterator[tuple[Ready, Prediction | str]]:
        waiting: list[Ready] = []
        for ready in read:
            if not ready.image.is_picture:
                yield from together([ready])
                continue
            waiting.append(ready)
            if len(waiting) == job.batch:
                yield from together(waiting)
                waiting = []
        if waiting:
            yield from together(waiting)

    return outcomes


@torch.no_grad()
def _piece(slices: Tensor, job: Job) -> list[Tensor]:
    """Probabilities (B, K, h, w), whether each image's logits are finite, the mask of the quoted predictor, those of the networks."""
    quoted, each = job.networks.logits(slices.to(job.device))
    masks = [logits.argmax(1).to(torch.uint8) for logits in [quoted, *each]]
    return [quoted.float().softmax(1), quoted.flatten(1).isfinite().all(1), *masks]


def _volumes_of(job: Job) -> Outcomes:
    """3D: sliding window, as test_3D does."""
    classes, how = job.reader.data.num_classes, {key: value for key, value in job.window.items() if key != "nms"}

    def mask_of(labels: Tensor) -> Tensor:
        return torch.from_numpy(largest_component(labels.numpy())) if job.window["nms"] else labels

    def predicted(ready: Ready) -> Prediction | str:
        volume, networks = torch.from_numpy(ready.image.pixels), job.networks
        try:
            scores = sliding_window_scores(networks.modules[networks.quoted], volume, classes, job.patch, device=job.device, **how)
            labels = mask_of(scores.argmax(0).to(torch.uint8))
            masks = [labels if name == networks.quoted else
                     mask_of(sliding_window(module, volume, classes, job.patch, device=job.device, **how))
                     for name, module in networks.single.items() if len(networks.single) > 1]
        except FloatingPointError:
            return NOT_FINITE
        told, entropy = figures(scores, labels, masks, flat=False)
        return Prediction(labels.numpy(), told, scores.numpy() if "probabilities" in job.save else None,
                          entropy.numpy() if "overlays" in job.save else None)

    return lambda read: ((ready, predicted(ready)) for ready in read)
