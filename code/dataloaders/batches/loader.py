"""Batches: cases by the sampler, pixels by the augmenter, prepared ahead by one thread.

Batch t is a pure function of (seed, t): neither prefetching, nor where a run was begun or resumed, nor the number of
processes changes a bit of it.
"""
from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from dataloaders.augmentation.augmenter import Augmenter
from dataloaders.augmentation.recipes import draw, rows_of
from dataloaders.batches.sampling import AUGMENTATION, METHOD, POLICY, LabeledOnly, TwoStream, generator
from dataloaders.batches.store import Store
from dataloaders.errors import UserError

AHEAD = 2
"""Batches that wait ready; each holds a batch's memory once."""


class Policy(Protocol):
    """A learned augmentation (CTAugment): the loader asks it for every row, the method updates it at the end of an epoch.

    Several processes each have a copy, so an update may rest only on what is the same on all, as the terms after `run.update` are.
    """

    def sample(self, rng: np.random.Generator) -> Any:
        """What will be done to one row, drawn from `rng`."""

    def apply(self, image: torch.Tensor, label: torch.Tensor | None, plan: Any) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """(C, H, W) float32 and (H, W) int64 (None: unlabelled) -> weak image, its label, strong image."""


@dataclass(slots=True)
class Batch:
    """Rows [0, n_labeled) are labelled. There are no labels of the others."""

    images: torch.Tensor
    """(B, C, *spatial) float32."""
    labels: torch.Tensor
    """(n_labeled, *spatial) int64; 255 is ignored."""
    step: int
    epoch: int
    last_of_epoch: bool
    cases: tuple[str, ...]
    """Names of the rows."""
    rng: np.random.Generator
    """For what a method draws on the host; a function of (seed, step), the same on every rank."""
    strong: torch.Tensor | None = None
    """(B, C, *spatial): the strong views of a learned policy."""
    plans: list[Any] = field(default_factory=list)
    """What the policy did to each row."""
    stands_in: bool = False
    """True where the batch has fewer rows than processes and none for this one, which was given the first row; it must not count."""

    @property
    def n_labeled(self) -> int:
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
    smaller; shares then differ by one row at most. steps_per_epoch: what `batch.epoch` counts; None for the sampler's own passes.
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
    ):
        self.store, self.seed, self.device, self.policy = store, seed, torch.device(device), policy
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
        self.sampler: TwoStream | LabeledOnly
        if labeled_only:
            self.sampler = LabeledOnly(len(self.labeled), batch_size, seed)
        else:
            self.sampler = TwoStream(len(self.labeled), len(self.unlabeled), labeled_bs, unlabeled_bs, seed)
        self.steps_per_epoch = steps_per_epoch or self.sampler.length
        self.augmenter = Augmenter(store, recipe, patch_size, mean, std, threads)
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

    def close(self) -> None:
        """Ends the augmentation threads."""
        self.augmenter.close()

    def _prepare(self, t: int) -> Batch:
        labeled, unlabeled = self.sampler.at(t)
        n_labeled, n = len(labeled), len(labeled) + len(unlabeled)
        rows = np.concatenate([self.labeled[labeled], self.unlabeled[unlabeled]])
        # Drawn for the batch of all ranks, so that the number of ranks changes nothing.
        draws = draw(self.augmenter.recipe, generator(self.seed, AUGMENTATION, t), n, self.augmenter.dimensions)
        mine_labeled = np.array_split(np.arange(n_labeled), self.world)[self.rank]
        mine = np.concatenate([mine_labeled, np.array_split(np.arange(n_labeled, n), self.world)[self.rank]])
        stands_in = len(mine) == 0  # networks take no empty batch
        if stands_in:
            mine_labeled = mine = np.zeros(1, np.int64)
        rows, names = rows[mine], tuple(self.store.names[row] for row in rows[mine])
        try:
            images, labels = self.augmenter(rows, len(mine_labeled), rows_of(draws, mine))
            batch = Batch(
                images=images,
                labels=labels,
                step=t,
                epoch=t // self.steps_per_epoch,
                last_of_epoch=(t + 1) % self.steps_per_epoch == 0,
                cases=names,
                rng=generator(self.seed, METHOD, t),
                stands_in=stands_in,
            )
            if self.policy is not None:
                self._apply(self.policy, batch, mine)
        except Exception as error:
            error.add_note(f"while batch {t} was made of {', '.join(names)}")
            raise
        return batch

    def _apply(self, policy: Policy, batch: Batch, places: np.ndarray) -> None:
        batch.strong = torch.empty_like(batch.images)
        for row, place in enumerate(places):
            plan = policy.sample(generator(self.seed, POLICY, batch.step, int(place)))
            label = batch.labels[row] if row < batch.n_labeled else None
            batch.images[row], new_label, batch.strong[row] = policy.apply(batch.images[row], label, plan)
            if new_label is not None:
                batch.labels[row] = new_label
            batch.plans.append(plan)

    def _finish(self, batch: Batch) -> Batch:
        batch.images, batch.labels = self._moved(batch.images), self._moved(batch.labels)
        if batch.strong is not None:
            batch.strong = self._moved(batch.strong)
        return batch

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        tensor = tensor.to(self.device, non_blocking=True)
        return tensor.contiguous(memory_format=self.augmenter.memory_format) if tensor.is_floating_point() else tensor


def _put(ready: queue.Queue, item: Batch | BaseException, stopped: threading.Event) -> bool:
    """Waits for room; False where the consumer has left."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
