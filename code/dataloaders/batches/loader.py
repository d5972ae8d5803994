"""Batches: cases by the sampler, pixels by the augmenter, prepared ahead by one thread.

Batch t is a pure function of (seed, t): neither prefetching, nor where a run was begun or resumed, nor the number of
processes changes a bit of it.
"""
from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from dataloaders.augmentation.augmenter import Augmenter
from dataloaders.augmentation.frame import Fill
from dataloaders.augmentation.recipes import Draws, draw, rows_of
from dataloaders.batches.sampling import AUGMENTATION, METHOD, POLICY, SHARED, LabeledOnly, Turns, TwoStream, generator
from dataloaders.batches.store import Store
from dataloaders.description import Resizing
from dataloaders.errors import UserError

AHEAD = 2
"""Batches that wait ready; each holds a batch's memory once."""
IGNORED = 255
MATES = 2**20
"""Streams of further images lie beyond those of further views."""


class Policy(Protocol):
    """A learned augmentation (CTAugment): the loader asks it for every row, the method updates it at the end of an epoch.

    Several processes each have a copy, so an update may rest only on what is the same on all, as the terms after `run.update` are.
    """

    def sample(self, rng: np.random.Generator) -> Any:
        """What will be done to one row, drawn from `rng`."""

    def apply(self, images: torch.Tensor, labels: torch.Tensor, plans: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, C, H, W) float32 and (n, H, W) int64 of the first n rows -> weak images, their labels, strong images. A plan a row."""


@dataclass(slots=True)
class Rows:
    """Further unlabelled rows of a step: another view of the same images, or other images."""

    images: torch.Tensor
    """(U, C, *spatial) float32."""
    maps: dict[str, torch.Tensor]
    """By name: (U, *spatial) float32."""
    cases: tuple[str, ...]


@dataclass(slots=True)
class Batch:
    """Rows [0, n_labeled) are labelled. There are no labels of the others."""

    images: torch.Tensor
    """(B, C, *spatial) float32."""
    labels: torch.Tensor
    """(n_labeled, *spatial) int64; 255 is ignored."""
    step: int
    """Counted from 0."""
    epoch: int
    """Counted from 0, by --steps_per_epoch."""
    last_of_epoch: bool
    """Whether the epoch ends with this step."""
    cases: tuple[str, ...]
    """Names of the rows."""
    rng: np.random.Generator
    """For what a method draws on the host for its rows (noise, boxes, mixes); a function of (seed, step, rank)."""
    shared_rng: np.random.Generator = field(default_factory=lambda: generator(0, SHARED, 0))
    """For what must be the same on every rank (a decision for the whole batch, a learned policy); a function of (seed, step)."""
    maps: dict[str, torch.Tensor] = field(default_factory=dict)
    """By name: (B, *spatial) float32, warped as the images are."""
    views: tuple[Rows, ...] = ()
    """Further views of the unlabelled rows: the same images under other draws of the augmentation."""
    mates: tuple[Rows, ...] = ()
    """Further draws of the unlabelled stream: as many other images."""
    strong: torch.Tensor | None = None
    """(B, C, *spatial): the strong views of a learned policy."""
    plans: list[Any] = field(default_factory=list)
    """What the policy did to each row."""
    stands_in: bool = False
    """True where the batch has fewer rows than processes and none for this one: it was given the first row, all of whose labels are
    ignored."""

    @property
    def n_labeled(self) -> int:
        """Number of labelled rows."""
        return len(self.labels)

    @property
    def labeled(self) -> torch.Tensor:
        """(n_labeled, C, *spatial) view."""
        return self.images[: len(self.labels)]

    @property
    def unlabeled(self) -> torch.Tensor:
        """(B - n_labeled, C, *spatial) view."""
        return self.images[len(self.labels) :]


class Loader:
    """Batches of a store for any range of iterations.

    labeled_indices, unlabeled_indices: positions in the store. batch_size and labeled_bs count the rows of all `world`
    processes; each gets its share of either part. labeled_only: whole batches of labelled rows, the last of an epoch
    smaller, or, with drop_last, left out unless it is the only one; shares then differ by one row at most. steps_per_epoch: what
    `batch.epoch` counts; None for the sampler's own passes.
    maps: per-pixel maps of the store by name, and what they have where nothing is known. views, draws: how many views of the
    unlabelled images and how many draws of their stream a batch has; one of each is `batch.unlabeled`. parts, turns: of images that are
    parted, (labelled, unlabelled) images of each part, and the part of every iteration (`Turns`).
    """

    def __init__(
        self,
        store: Store,
        labeled_indices: Sequence[int] | np.ndarray,
        unlabeled_indices: Sequence[int] | np.ndarray,
        *,
        batch_size: int,
        labeled_bs: int,
        patch_size: tuple[int, ...],
        recipe: str,
        resizing: Resizing = "corner",
        seed: int,
        device: torch.device | str = "cpu",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        steps_per_epoch: int | None = None,
        labeled_only: bool = False,
        channels_last: bool = True,
        policy: Policy | None = None,
        rank: int = 0,
        world: int = 1,
        threads: int | None = None,
        maps: Mapping[str, Fill] | None = None,
        views: int = 1,
        draws: int = 1,
        drop_last: bool = False,
        parts: Sequence[tuple[int, int]] = (),
        turns: Sequence[int] = (),
    ):
        self.store, self.seed, self.device, self.policy = store, seed, torch.device(device), policy
        self.maps, self.views, self.draws = dict(maps or {}), views, draws
        self.labeled = np.asarray(labeled_indices, np.int64)
        self.unlabeled = np.asarray(unlabeled_indices, np.int64)
        if not store.has_label[self.labeled].all():
            missing = self.labeled[~store.has_label[self.labeled]]
            raise UserError(f"{store.names[missing[0]]} was chosen as labelled, but its label was not read.")
        unlabeled_bs = batch_size - labeled_bs
        if not labeled_only and (labeled_bs % world or unlabeled_bs % world):
            raise UserError(
                f"--batch_size {batch_size} --labeled_bs {labeled_bs}: {labeled_bs} labelled and {unlabeled_bs} unlabelled rows "
                f"do not divide by {world} processes. Choose multiples of {world} for both."
            )
        self.sampler: TwoStream | LabeledOnly | Turns
        if parts:
            self.sampler = Turns(parts, turns, batch_size, labeled_bs, seed)
        elif labeled_only:
            self.sampler = LabeledOnly(len(self.labeled), batch_size, seed, drop_last)
        else:
            self.sampler = TwoStream(len(self.labeled), len(self.unlabeled), labeled_bs, unlabeled_bs, seed)
        self.steps_per_epoch = steps_per_epoch or self.sampler.length
        self.augmenter = Augmenter(store, recipe, patch_size, mean, std, threads, resizing=resizing)
        if channels_last and len(patch_size) == 2:
            self.augmenter.memory_format = torch.channels_last
        self.rank, self.world = rank, world
        self.wait_seconds = 0.0
        """Time for which the consumer of `batches` stood still, in all."""

    def batch(self, t: int) -> Batch:
        """Batch of iteration t (from 0), on the device."""
        return self._finish(self._prepare(t))

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """(t, batch) for t in [start, stop). What goes wrong in the thread is raised here.

        With a policy, no batch is prepared before the consumer is done with the epoch that precedes it.
        """
        if self.store.on_device and self.store.pixels.device.type == "cuda":
            # The device works while the host goes on: a thread would only contend for the interpreter.
            for t in range(start, stop):
                began = time.perf_counter()
                batch = self.batch(t)
                self.wait_seconds += time.perf_counter() - began
                yield t, batch
            return

        ready: queue.Queue[Batch | BaseException] = queue.Queue(AHEAD)
        stopped, consumed = threading.Event(), threading.Semaphore(0)

        def produce() -> None:
            try:
                for t in range(start, stop):
                    batch = self._prepare(t)
                    if not _put(ready, batch, stopped):
                        return
                    if self.policy is not None and batch.last_of_epoch:
                        consumed.acquire()
            except BaseException as error:  # handed to the consumer, which raises it
                _put(ready, error, stopped)

        thread = threading.Thread(target=produce, name="loader", daemon=True)
        thread.start()
        try:
            for t in range(start, stop):
                began = time.perf_counter()
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                batch = self._finish(item)
                self.wait_seconds += time.perf_counter() - began
                yield t, batch
                if self.policy is not None and batch.last_of_epoch:
                    consumed.release()
        finally:
            stopped.set()
            consumed.release()
            thread.join()

    def augmented(self, places: Sequence[int] | np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(images, labels) of labelled images by their places among these, under an augmentation drawn from `rng`; on the device."""
        draws = draw(self.augmenter.recipe, rng, len(places), self.augmenter.dimensions)
        images, labels = self.augmenter(self.labeled[np.asarray(places, np.int64)], len(places), draws)
        return self._moved(self._ready(images)), self._moved(self._ready(labels))

    def close(self) -> None:
        """Ends the augmentation threads."""
        self.augmenter.close()

    def _prepare(self, t: int) -> Batch:
        labeled, unlabeled = self.sampler.at(t)
        n_labeled, n = len(labeled), len(labeled) + len(unlabeled)
        rows = np.concatenate([self.labeled[labeled], self.unlabeled[unlabeled]])
        draws = self._drawn(t, n)
        mine_labeled = self._share(np.arange(n_labeled))
        mine = np.concatenate([mine_labeled, self._share(np.arange(n_labeled, n))])
        stands_in = len(mine) == 0  # networks take no empty batch
        if stands_in:
            mine_labeled = mine = np.zeros(1, np.int64)
        names = tuple(self.store.names[row] for row in rows[mine])
        try:
            drawn = rows_of(draws, mine)
            images, labels = self.augmenter(rows[mine], len(mine_labeled), drawn)
            batch = Batch(
                images=images,
                labels=labels.fill_(IGNORED) if stands_in else labels,
                step=t,
                epoch=t // self.steps_per_epoch,
                last_of_epoch=(t + 1) % self.steps_per_epoch == 0,
                cases=names,
                rng=generator(self.seed, METHOD, t, self.rank),
                shared_rng=generator(self.seed, SHARED, t),
                maps=self._maps(rows[mine], drawn),
                views=tuple(self._further(t, self.unlabeled[unlabeled], place) for place in range(1, self.views)),
                mates=tuple(self._further(t, self.unlabeled[self.sampler.at(t, draw)[1]], MATES + draw) for draw in range(1, self.draws)),
                stands_in=stands_in,
            )
            if self.policy is not None:
                self._apply(self.policy, batch, mine)
            self._each(batch, self._ready)
        except Exception as error:
            error.add_note(f"while batch {t} was made of {', '.join(names)}")
            raise
        return batch

    def _drawn(self, t: int, n: int, place: int = 0) -> Draws:
        """Augmentation of n rows, drawn for the batch of all ranks, so that the number of ranks changes nothing."""
        return draw(self.augmenter.recipe, generator(self.seed, AUGMENTATION, t, place), n, self.augmenter.dimensions)

    def _share(self, places: np.ndarray) -> np.ndarray:
        """This rank's part of the rows of all."""
        return np.array_split(places, self.world)[self.rank]

    def _maps(self, rows: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        return {name: self.augmenter.map(name, rows, draws, fill) for name, fill in self.maps.items()}

    def _further(self, t: int, rows: np.ndarray, place: int) -> Rows:
        mine = self._share(np.arange(len(rows)))
        draws = rows_of(self._drawn(t, len(rows), place), mine)
        images, _ = self.augmenter(rows[mine], 0, draws)
        return Rows(images, self._maps(rows[mine], draws), tuple(self.store.names[row] for row in rows[mine]))

    def _apply(self, policy: Policy, batch: Batch, places: np.ndarray) -> None:
        """Both views of all rows: on a device at once, on the host one by one, so that a row stays in the processor's cache."""
        batch.plans = [policy.sample(generator(self.seed, POLICY, batch.step, int(place))) for place in places]
        batch.strong = torch.empty_like(batch.images)
        together = 1 if batch.images.device.type == "cpu" else len(places)
        for first in range(0, len(places), together):
            mine = slice(first, first + together)
            batch.images[mine], batch.labels[mine], batch.strong[mine] = policy.apply(
                batch.images[mine], batch.labels[mine], batch.plans[mine])

    def _finish(self, batch: Batch) -> Batch:
        self._each(batch, self._moved)
        return batch

    def _each(self, batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Changes every tensor of a batch."""
        batch.images, batch.labels = change(batch.images), change(batch.labels)
        batch.strong = None if batch.strong is None else change(batch.strong)
        batch.maps = {name: change(values) for name, values in batch.maps.items()}
        for rows in (*batch.views, *batch.mates):
            rows.images, rows.maps = change(rows.images), {name: change(values) for name, values in rows.maps.items()}

    def _ready(self, tensor: torch.Tensor) -> torch.Tensor:
        """What has to go from the host to a GPU, in memory that it can be copied from while training goes on; labels as bytes."""
        if self.device.type != "cuda" or tensor.device.type != "cpu":
            return tensor
        return (tensor if tensor.is_floating_point() else tensor.to(torch.uint8)).pin_memory()

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(self.device, non_blocking=True)
        if not tensor.is_floating_point():
            return tensor.long()
        return tensor.contiguous(memory_format=self.augmenter.memory_format) if tensor.dim() == self.augmenter.dimensions + 2 else tensor


def _put(ready: queue.Queue, item: Batch | BaseException, stopped: threading.Event) -> bool:
    """Waits for room; False where the consumer has left."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
