"""Cases on their way to a network: read ahead in threads, checked, made ready, predicted, and dropped; small sets stay in memory."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dataloaders.description import Case, Source
from dataloaders.errors import Problems, UserError
from dataloaders.progress import Progress
from dataloaders.reading import EvaluationCase, load_case
from inference.predicting import Inference
from inference.threads import READERS, in_threads
from inference.windows import Predictor

Made = TypeVar("Made")
BLOCK = 256
"""Resized slices that are predicted on a GPU before the host waits for them."""
KEPT = 2**29
"""Bytes of pixels, references and inputs that stay in memory once they were read, the first cases first; the others are read anew each
time. So validation of the usual medical sets reads once, and one of 500 street scenes stays within this."""


@dataclass(frozen=True)
class Ready:
    """A case that has been read, and what the network is handed of it."""

    loaded: EvaluationCase
    inputs: Tensor
    """(N, C, *sides) float32."""


class Cases:
    """The cases of a validation or a test, in order; walked over, they are read ahead."""

    def __init__(self, source: Source, cases: Sequence[Case], inference: Inference, keep: int = KEPT):
        self.source, self.cases, self.inference = source, list(cases), inference
        self._room = keep
        self._loaded: dict[int, EvaluationCase] = {}
        self._inputs: dict[int, Tensor] = {}
        self._checked = False

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Ready]:
        return self._ahead(self.ready, range(len(self.cases)))

    def ready(self, number: int) -> Ready:
        """One case, from memory or read now."""
        loaded = self.loaded(number)
        inputs = self._inputs.get(number)
        return Ready(loaded, self.inference.inputs(loaded.pixels) if inputs is None else inputs)

    def loaded(self, number: int) -> EvaluationCase:
        """One case as read."""
        return self._loaded.get(number) or load_case(self.source, self.cases[number])

    def check(self, what: str, shown: bool = False) -> None:
        """Reads every case once; raises one `UserError` with all that is wrong with any of them.

        what: names them: "test cases"; shown: whether the screen tells how far it is.
        """
        if self._checked:
            return
        problems = Problems()
        numbers = Progress(range(len(self.cases)), f"reading {what}", shown=shown)
        for number, found in enumerate(self._ahead(self._attempt, numbers)):
            if isinstance(found, UserError):
                problems.add(found)
            else:
                self._keep(number, found)
        problems.raise_any(f"{self.source.data.name}, {what}")
        self._checked = True

    def _ahead(self, read: Callable[[int], Made], numbers: Iterable[int]) -> Iterator[Made]:
        return in_threads(read, numbers, READERS, 2 if self.source.data.dimensions == 3 else READERS + 1)

    def _attempt(self, number: int) -> Ready | UserError:
        try:
            return self.ready(number)
        except UserError as error:
            return error

    def _keep(self, number: int, ready: Ready) -> None:
        """Inputs are kept where they were resized, on the device: they are small there, and took work."""
        loaded, resized = ready.loaded, self.inference.how == "resized"
        self._room -= loaded.pixels.nbytes + loaded.reference.nbytes + (ready.inputs.nbytes if resized else 0)
        if self._room >= 0:
            self._loaded[number] = loaded
            if resized:
                self._inputs[number] = ready.inputs.to(self.inference.device)


def predicted(predictor: Predictor, cases: Iterable[Ready], inference: Inference,
              together: bool = False) -> Iterator[tuple[Ready, np.ndarray]]:
    """Each case with its label maps (N, *sides) uint8, of the size that the network saw.

    `together`: cases of one image each pass the network together, as many as `inference.batch` allows; else each by itself. On a GPU
    resized slices pass in batches of one size, whatever cases they are of (the last one filled up), and a `BLOCK` of them is waited for
    at once. Raises FloatingPointError for logits that are not finite.
    """
    for group in grouped(cases, inference, together):
        inputs = group[0].inputs if len(group) == 1 else torch.cat([ready.inputs.to(inference.device) for ready in group])
        if in_blocks(inference):
            inputs = torch.cat([inputs, inputs[-1:].expand(-len(inputs) % inference.batch, *inputs.shape[1:])])
        maps = inference.maps(predictor, inputs).cpu().numpy()
        first = 0
        for ready in group:
            yield ready, maps[first : first + len(ready.inputs)]
            first += len(ready.inputs)


def grouped(cases: Iterable[Ready], inference: Inference, together: bool) -> Iterator[list[Ready]]:
    """Neighbours of one image each and of equal sides, in groups that pass the network at once; of resized slices on a GPU a `BLOCK`."""
    group: list[Ready] = []
    for ready in cases:
        if in_blocks(inference):
            fits = sum(len(one.inputs) for one in (*group, ready)) <= BLOCK
        else:
            alike = group and len(ready.inputs) == 1 and ready.inputs.shape == group[0].inputs.shape
            fits = bool(together and alike and len(group) < inference.together(ready.inputs.shape[2:]))
        if group and not fits:
            yield group
            group = []
        group.append(ready)
    if group:
        yield group


def in_blocks(inference: Inference) -> bool:
    """Whether slices are predicted whatever case they are of: not on a CPU, where a case at a time leaves the bits as they were."""
    return inference.device.type != "cpu" and inference.how == "resized"
