"""Watches a run: losses that are not finite, what is logged and when, validation scores, the end of the run on the clock."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dataloaders.errors import UserError
from losses.ranks import world
from pictures.flat import overlay, side_by_side
from storage.logbook import Logbook
from system import distributed
from system.ending import Leave
from val_2D import Predictor, Summary, Validator
from val_3D import VolumeValidator

if TYPE_CHECKING:
    from dataloaders.batches.loader import Loader
    from engine.stage import Stage

NEVER = 2**62
PICTURES = 20
"""Pictures a run at most."""


class Monitor:
    """The eyes of a run. One for all its stages."""

    def __init__(self, book: Logbook, classes: tuple[str, ...]):
        self.book, self.classes = book, classes
        self.say = book.say
        self.validation_seconds = 0.0
        self._offset = 0
        self._first_bad: dict[tuple[str, ...], Tensor] = {}
        self._shown: dict[str, str] = {}
        self._present: set[int] = set()
        self._told: set[int] = set()
        self._maps: dict[str, Tensor] = {}
        self._began = (0, 0.0)
        self._announced = False
        self.stage: Stage | None = None
        """Whose loop is running."""

    def resume_at(self, offset: int) -> None:
        """Bytes of metrics.jsonl that belong to the checkpoint."""
        self._offset = offset

    def begin(self, stage: Stage, loader: Loader) -> None:
        """Called when the loop of a stage starts."""
        self.stage = stage
        self.book.total = stage.iterations
        self.book.begin(stage.steps_done, self._offset, stage.name)
        self.book.status("running", stage.steps_done)
        self._began = (stage.steps_done, time.perf_counter())
        self._first_bad = {}

    def watch(self, terms: Mapping[str, Tensor], step: int, summed: Callable[[Tensor], Tensor] | None = None) -> None:
        """Looks for terms that are not finite: at once on the CPU, by a flag on the device elsewhere (one for each set of names, since
        an adversary's update in the same step has others).

        `summed` sums a vector over processes; the terms then become their means over them, in place, so that all see the same.
        """
        names = tuple(name for name, term in terms.items() if isinstance(term, Tensor) and term.ndim == 0)
        values = torch.stack([terms[name].detach().float() for name in names])
        finite = values.isfinite()
        if summed is not None:
            bad, sums = summed(torch.cat([(~finite).float(), values])).chunk(2)
            finite = bad == 0
            for name, mean in zip(names, sums / world()):
                if terms[name].is_floating_point() and not (terms[name].is_leaf and terms[name].requires_grad):
                    terms[name].data.copy_(mean)
        if values.device.type == "cpu":
            if not bool(finite.all()):
                found = distributed.gather([f"{name} = {value:g}" for name, value in zip(names, values.tolist())
                                            if summed is None or not math.isfinite(value)])
                raise self._not_finite(step, list(dict.fromkeys(one for rank in found for one in rank)))
            return
        if names not in self._first_bad:
            self._first_bad[names] = torch.full((len(names),), NEVER, device=values.device)
        first_bad = self._first_bad[names]
        self._first_bad[names] = torch.where(finite, first_bad, first_bad.clamp(max=step))

    def check_finite(self, stage: Stage) -> None:
        """Raises `UserError` when a flag on the device is set. Nothing is saved after that."""
        steps = [pair for names, flags in self._first_bad.items() for pair in zip(names, flags.tolist())]
        first = min((step for _, step in steps), default=NEVER)
        if first < NEVER:
            raise self._not_finite(first, [name for name, step in steps if step == first])

    def _not_finite(self, step: int, terms: list[str]) -> UserError:
        assert self.stage is not None
        return UserError(f"step {step}: the loss is not finite ({', '.join(terms)}).\nCases of the batch: "
                         f"{', '.join(self.stage.names_of(step))}\nThe last good checkpoint is {self.stage.file('last')}. "
                         "Lower --base_lr, or look at these images; --fresh begins anew.", code=3)

    def step(self, stage: Stage, terms: Mapping[str, Any], done: int) -> None:
        """One step on the progress bar; every --log_every steps the losses are read and written."""
        options = stage.options
        for name, term in terms.items():
            if isinstance(term, Tensor) and term.ndim >= 2 and name not in ("pseudo_labels", "mask"):
                self._maps[name] = term.detach()
        if done % options.log_every == 0 or done == stage.iterations:
            self.check_finite(stage)
            values = {name: float(term.detach()) for name, term in terms.items() if isinstance(term, Tensor) and term.ndim == 0}
            if "mask" in terms:
                values["mask_share"] = float(terms["mask"].float().mean())
            values = {name: total / world() for name, total in zip(values, distributed.sums(list(values.values())))}
            values |= {f"lr_{name}": group.optimizer.param_groups[0]["lr"] for name, group in stage.optimizers.items()}
            values |= self._pseudo_labels(terms)
            values["wait_share"] = stage.waited() / max(stage.train_seconds, 1e-9)
            self.book.record("train", done, values)
            self._shown["loss"] = f"{values.get('total', float('nan')):.4f}"
            if stage.device.type == "cuda":
                self._shown["memory"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}GiB"
        self.book.advance(**self._shown)
        first, at = self._began
        if not self._announced and done - first == 20 and done < stage.iterations:
            self._announced = True
            left = (time.perf_counter() - at) / 20 * (stage.iterations - done)
            end = time.strftime("%a %H:%M", time.localtime(time.time() + left))
            rate = 20 / (time.perf_counter() - at)
            self.say(f"{rate:.1f} steps a second: training will be done about {end}, in {duration(left)} (validation apart).")

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

    def scored(self, name: str, done: int, score: Callable[[], Summary]) -> Summary:
        """Runs a validation, writes its scores, shows them, and gives them back."""
        began = time.perf_counter()
        summary = score()
        seconds = time.perf_counter() - began
        self.validation_seconds += seconds
        values = {f"{metric}/{of}": value for of, metrics in summary.items() for metric, value in metrics.items()
                  if metric in ("dice", "iou", "hd95_vox", "missed")}
        self.book.record(f"validation/{name}", done, {**values, "seconds": seconds})
        classes = ", ".join(f"{of} {metrics['dice'] or 0:.3f}" for of, metrics in summary.items() if of != "mean")
        self.say(f"step {done}: validation Dice of {name} {summary['mean']['dice'] or 0:.4f} ({classes})")
        self._shown["val"] = f"{summary['mean']['dice'] or 0:.3f}"
        return summary

    def picture_of(self, predictor: Predictor, validator: Validator | VolumeValidator, done: int) -> None:
        """A plane of the first validation case, reference and prediction side by side, and maps that the losses gave, to tensorboard."""
        pixels, reference, labels = validator.planes(predictor)
        panels = [overlay(pixels, map_) for map_ in (np.zeros_like(labels), reference, labels)]
        self.book.picture("validation", side_by_side(panels), done)
        for name, maps in self._maps.items():
            flat = maps.float().reshape(-1, *maps.shape[-2:]).cpu().numpy()
            low, high = flat.min(), flat.max()
            self.book.picture(name, np.concatenate(list((flat - low) / max(high - low, 1e-9)), 1), done)

    def interrupted(self, stage: Stage) -> None:
        """Says where the run stands, and leaves."""
        self.book.status("interrupted", stage.steps_done)
        raise Leave(f"Interrupted at step {stage.steps_done} of {stage.iterations}; the state is saved. "
                    "Run the same command again to go on.", 75, "interrupted")


def duration(seconds: float) -> str:
    """90 -> '1.5 min'."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
