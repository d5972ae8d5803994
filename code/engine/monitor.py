"""Watches a run: losses that are not finite, what is logged and when, validation scores, the end of the run on the clock."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataloaders.description import DataSet
from dataloaders.progress import duration
from inference import Predictor, Summary, Validator, score_of
from inference.scoring import WORDS
from losses.ranks import world
from pictures.flat import overlay, side_by_side
from storage.logbook import Logbook
from system import distributed

NEVER = 2**62
PICTURES = 20
"""Of a stage at most, spread over its validations."""


@dataclass(frozen=True)
class Loop:
    """The loop that is watched: a stage's name ("" for the run's own), its length, and where it began in this session."""

    stage: str
    iterations: int
    first: int
    began: float


class NotFinite(Exception):
    """A loss that is not finite: the step, and which terms."""

    def __init__(self, step: int, terms: Sequence[str]):
        super().__init__(f"step {step}: the loss is not finite ({', '.join(terms)})")
        self.step = step


class Monitor:
    """The eyes of a run. One for all its stages; it looks, and changes nothing."""

    def __init__(self, book: Logbook, data: DataSet):
        self.book, self.data, self.classes = book, data, data.classes
        self.loop: Loop | None = None
        """The loop under way; None before the first."""
        self._first_bad: dict[tuple[str, ...], Tensor] = {}
        self._shown: dict[str, str] = {}
        self._present: set[int] = set()
        self._told: set[int] = set()
        self._maps: dict[str, Tensor] = {}
        self._announced = False

    def say(self, text: str) -> None:
        """A line on the screen and in log.txt, behind the name of the stage under way."""
        stage = self.loop.stage if self.loop else ""
        self.book.say(f"{stage}: {text}" if stage else text)

    def begin(self, stage: str, step: int, iterations: int, offset: int) -> None:
        """Called when the loop of a stage starts at `step`; `offset` bytes of metrics.jsonl belong to its checkpoint."""
        self.loop = Loop(stage, iterations, step, time.perf_counter())
        self.book.total = iterations
        self.book.begin(step, offset, stage)
        self.book.status("running", step)
        self._first_bad, self._maps, self._announced = {}, {}, False
        self._present, self._told = set(), set()

    def watch(self, names: Sequence[str], values: Tensor, bad: Tensor, step: int) -> None:
        """Looks for terms that are not finite: at once on the CPU, by a flag on the device elsewhere (one for each set of names, since
        an adversary's update in the same step has others).

        values: of the terms `names`, as this process has them; bad: above 0 where any process has one that is not finite. Raises
        `NotFinite`, on all processes alike.
        """
        if values.device.type == "cpu":
            if bool((bad > 0).any()):
                mine = [f"{name} = {value:g}" for name, value in zip(names, values.tolist()) if not math.isfinite(value)]
                found = distributed.gather(mine)
                raise NotFinite(step, list(dict.fromkeys(one for rank in found for one in rank)))
            return
        key = tuple(names)
        if key not in self._first_bad:
            self._first_bad[key] = torch.full((len(names),), NEVER, device=values.device)
        first_bad = self._first_bad[key]
        self._first_bad[key] = torch.where(bad > 0, first_bad.clamp(max=step), first_bad)

    def check_finite(self) -> None:
        """Raises `NotFinite` when a flag on the device is set. Nothing is saved after that."""
        steps = [pair for names, flags in self._first_bad.items() for pair in zip(names, flags.tolist())]
        first = min((step for _, step in steps), default=NEVER)
        if first < NEVER:
            raise NotFinite(first, [name for name, step in steps if step == first])

    def step(self, terms: Mapping[str, Any], done: int, log_every: int, further: Callable[[], Mapping[str, float]]) -> None:
        """One step on the progress bar; every `log_every` steps the losses are read and written, with what `further` gives."""
        assert self.loop is not None
        for name, term in terms.items():
            if isinstance(term, Tensor) and term.ndim >= 2 and name not in ("pseudo_labels", "mask"):
                self._maps[name] = term.detach()
        if done % log_every == 0 or done == self.loop.iterations:
            self.check_finite()
            values = {name: float(term.detach()) for name, term in terms.items() if isinstance(term, Tensor) and term.ndim == 0}
            if "mask" in terms:
                values["mask_share"] = float(terms["mask"].float().mean())
            values = {name: total / world() for name, total in zip(values, distributed.sums(list(values.values())))}
            self.book.record("train", done, {**values, **further(), **self._pseudo_labels(terms)})
            self._shown["loss"] = f"{values.get('total', float('nan')):.4f}"
            if torch.cuda.is_initialized():
                self._shown["memory"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}GiB"
        self.book.advance(**self._shown)
        taken, left = done - self.loop.first, self.loop.iterations - done
        if not self._announced and taken == 20 and left:
            self._announced = True
            pace = (time.perf_counter() - self.loop.began) / 20
            end = time.strftime("%a %H:%M", time.localtime(time.time() + pace * left))
            self.say(f"{1 / pace:.1f} steps a second: training will be done about {end}, in {duration(pace * left)} (validation apart).")

    def _pseudo_labels(self, terms: Mapping[str, Any]) -> dict[str, float]:
        """Share of each class in the pseudo-labels. A class that vanishes is said once."""
        values: dict[str, float] = {}
        if "pseudo_labels" in terms:
            labels = terms["pseudo_labels"]
            counted = torch.bincount(labels.flatten()[labels.flatten() != 255].long(), minlength=len(self.classes))
            counts = distributed.sums(counted.tolist())
            for c, name in enumerate(self.classes):
                values[f"pseudo_labels/{name}"] = counts[c] / max(sum(counts), 1)
                if counts[c]:
                    self._present.add(c)
                elif c in self._present and c not in self._told:  # early in training every class is still to come
                    self._told.add(c)
                    self.say(f"Note: {name} has vanished from the pseudo-labels at this step. If it stays away, the run has collapsed "
                             "(see pseudo_labels in tensorboard or metrics.jsonl).")
        return values

    def scored(self, name: str, done: int, score: Callable[[], Summary]) -> tuple[Summary, float]:
        """Runs a validation, writes its scores, shows them; gives them and the seconds that it took."""
        began = time.perf_counter()
        summary = score()
        seconds = time.perf_counter() - began
        values = {f"{metric}/{of}": value for of, metrics in summary.items() for metric, value in metrics.items()
                  if metric in ("dice", "iou", "miou", "miou_absent_zero", "hd95_vox", "missed")}
        self.book.record(f"validation/{name}", done, {**values, "seconds": seconds})
        best_by, mean = self.data.evaluation.best_by, score_of(summary, self.data)
        of_class = "iou" if best_by == "miou" else best_by
        classes = ", ".join(f"{of} {metrics[of_class] or 0:.3f}" for of, metrics in summary.items() if of != "mean")
        self.say(f"step {done}: validation {WORDS[best_by]} of {name} {mean:.4f} ({classes})")
        self._shown["val"] = f"{mean:.3f}"
        return summary, seconds

    def wants_picture(self, done: int, val_every: int) -> bool:
        """Whether the validation at this step is one of those that are shown, `PICTURES` or fewer; the last one is."""
        assert self.loop is not None
        apart = math.ceil(self.loop.iterations / val_every / PICTURES)
        return done == self.loop.iterations or done % (apart * val_every) == 0

    def picture_of(self, predictor: Predictor, validator: Validator, done: int) -> None:
        """A plane of the first validation case, reference and prediction side by side, and maps that the losses gave, to tensorboard.

        Of maps of volumes it shows the middle plane along the last axis.
        """
        pixels, reference, labels = validator.planes(predictor)
        panels = [overlay(pixels, map_) for map_ in (np.zeros_like(labels), reference, labels)]
        self.book.picture("validation", side_by_side(panels), done)
        for name, maps in self._maps.items():
            if self.data.dimensions == 3 and maps.ndim >= 4:
                maps = maps[..., maps.shape[-1] // 2]
            flat = maps.float().reshape(-1, *maps.shape[-2:]).cpu().numpy()
            low, high = flat.min(), flat.max()
            self.book.picture(name, np.concatenate(list((flat - low) / max(high - low, 1e-9)), 1), done)


def scalars(terms: Mapping[str, Any]) -> tuple[list[str], Tensor]:
    """The names of the terms that are scalars, and their values (N,) float32 without gradient."""
    names = [name for name, term in terms.items() if isinstance(term, Tensor) and term.ndim == 0]
    return names, torch.stack([terms[name].detach().float() for name in names])
