"""Which cases stand in the batch of iteration t: pure functions of (seed, t), so that a resumed run goes on in step."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from dataloaders.errors import UserError

AUGMENTATION, METHOD, POLICY, LABELED, UNLABELED, SHARED = range(1, 7)
"""What a random stream is for; streams of one seed never meet."""


def generator(seed: int, purpose: int, index: int, place: int = 0) -> np.random.Generator:
    """The generator of (seed, purpose, index, place); `index` is the iteration, or the epoch for permutations.

    Philox is counter based: making one takes microseconds, and streams of different keys are independent.
    """
    key = np.array([seed % 2**64, (purpose << 56) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, place], dtype=np.uint64)))


def two_stream_epoch(
    labeled: Iterator[np.ndarray], unlabeled: Iterator[np.ndarray], steps: int, labeled_bs: int, unlabeled_bs: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of one epoch: each the next `labeled_bs` of the labelled stream, then the next `unlabeled_bs` of the other.

    The streams are chained permutations, drawn when needed; groups run across the seam of two permutations.
    """
    labeled_stream, unlabeled_stream = chain.from_iterable(labeled), chain.from_iterable(unlabeled)
    for _ in range(steps):
        first = np.fromiter(labeled_stream, np.int64, labeled_bs)
        yield first, np.fromiter(unlabeled_stream, np.int64, unlabeled_bs)


def epoch_length(n_labeled: int, labeled_bs: int) -> int:
    """Iterations of an epoch: whole groups of labelled cases; at least one, with repeated rows where they are too few."""
    return max(n_labeled // labeled_bs, 1)


class TwoStream:
    """Rows of the batch: `labeled_bs` labelled ones, then `unlabeled_bs` unlabelled ones; one labelled permutation an epoch.

    The unlabelled stream is begun anew each epoch (as published), so within an epoch use counts differ by at most one. Further
    draws of it are streams of their own.
    """

    def __init__(self, n_labeled: int, n_unlabeled: int, labeled_bs: int, unlabeled_bs: int, seed: int):
        if n_labeled < 1 or labeled_bs < 1:
            raise UserError("There are no labelled cases to train on. Choose --labeled_num of at least 1, and --labeled_bs of at least 1.")
        if unlabeled_bs < 1:
            raise UserError("No row of the batch is left for unlabelled cases. Choose --labeled_bs smaller than --batch_size.")
        if n_unlabeled < 1:
            raise UserError(
                "There are no unlabelled cases: all training cases are labelled. "
                "Choose a smaller --labeled_num, or train on labels alone with train_Supervised.py."
            )
        self.n_labeled, self.n_unlabeled = n_labeled, n_unlabeled
        self.labeled_bs, self.unlabeled_bs = labeled_bs, unlabeled_bs
        self.seed = seed
        self.length = epoch_length(n_labeled, labeled_bs)
        self.fewest = labeled_bs
        """Labelled rows of the smallest batch."""
        self._kept: dict[int, tuple[int, list[tuple[np.ndarray, np.ndarray]]]] = {}

    def at(self, t: int, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Positions (labeled_bs,) in the labelled list and (unlabeled_bs,) in the unlabelled list for iteration t (from 0)."""
        epoch, position = divmod(t, self.length)
        kept, batches = self._kept.get(draw, (-1, []))
        if epoch != kept:
            labeled = permutations(self.n_labeled, generator(self.seed, LABELED, epoch))
            unlabeled = permutations(self.n_unlabeled, generator(self.seed, UNLABELED, epoch, draw))
            batches = list(two_stream_epoch(labeled, unlabeled, self.length, self.labeled_bs, self.unlabeled_bs))
            self._kept[draw] = (epoch, batches)
        return batches[position]


class LabeledOnly:
    """An ordinary shuffled pass over the labelled cases; the last, smaller batch of an epoch is kept (as published by SSL4MIS), or, with
    `drop_last` and unless it is the only one, left out."""

    def __init__(self, n_labeled: int, batch_size: int, seed: int, drop_last: bool = False):
        if n_labeled < 1 or batch_size < 1:
            raise UserError("There are no labelled cases to train on. Choose --labeled_num of at least 1.")
        self.n_labeled, self.batch_size, self.seed = n_labeled, batch_size, seed
        whole = n_labeled // batch_size
        self.length = max(whole, 1) if drop_last else -(-n_labeled // batch_size)
        self.fewest = batch_size if drop_last and whole else n_labeled % batch_size or batch_size
        """Labelled rows of the smallest batch."""
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def at(self, t: int, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Positions (<= batch_size,) in the labelled list, and none in the unlabelled one."""
        epoch, position = divmod(t, self.length)
        kept, order = self._kept
        if epoch != kept:
            order = generator(self.seed, LABELED, epoch).permutation(self.n_labeled)
            self._kept = (epoch, order)
        return order[position * self.batch_size : (position + 1) * self.batch_size], np.empty(0, np.int64)


class UnlabeledOnly:
    """Batches of unlabelled cases alone, all as large: chained permutations, one an epoch of the cases."""

    def __init__(self, n_unlabeled: int, batch_size: int, seed: int):
        self.n_unlabeled, self.batch_size, self.seed = n_unlabeled, batch_size, seed
        self.length, self.fewest = -(-n_unlabeled // batch_size), batch_size

    def at(self, t: int, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """None in the labelled list, and positions (batch_size,) in the unlabelled one."""
        first, start = divmod(t * self.batch_size, self.n_unlabeled)
        last = (t * self.batch_size + self.batch_size - 1) // self.n_unlabeled
        orders = [generator(self.seed, UNLABELED, epoch, draw).permutation(self.n_unlabeled) for epoch in range(first, last + 1)]
        return np.empty(0, np.int64), np.concatenate(orders)[start : start + self.batch_size]


class Turns:
    """Parts that take turns: the batch of iteration t is of part `turns[t]`, which counts its own iterations.

    A part with images of both kinds has `labeled_bs` labelled rows and as many others as fill the batch; one with images of one kind has
    `batch_size` of them.

    Args:
        sizes: (labelled, unlabelled) images of each part, which stand one part after the other in either list.
        turns: the part of every iteration.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], turns: Sequence[int], batch_size: int, labeled_bs: int, seed: int):
        self.turns = np.asarray(turns)
        self.samplers = [sampler_of(*size, batch_size, labeled_bs, seed + part) for part, size in enumerate(sizes)]
        self.length = sum(sampler.length for sampler in self.samplers)
        self.fewest = min(sampler.fewest for sampler in self.samplers)
        self._before = np.cumsum([(0, 0), *sizes], 0)
        self._own = np.empty(len(self.turns), np.int64)
        for part in range(len(sizes)):
            self._own[self.turns == part] = np.arange((self.turns == part).sum())

    def at(self, t: int, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the labelled and in the unlabelled list for iteration t (from 0)."""
        part = int(self.turns[t])
        labeled, unlabeled = self.samplers[part].at(int(self._own[t]), draw)
        return self._before[part][0] + labeled, self._before[part][1] + unlabeled


def sampler_of(n_labeled: int, n_unlabeled: int, batch_size: int, labeled_bs: int, seed: int) -> TwoStream | LabeledOnly | UnlabeledOnly:
    """Of images of both kinds batches of both; of one kind batches of it alone."""
    if n_labeled and n_unlabeled:
        return TwoStream(n_labeled, n_unlabeled, labeled_bs, batch_size - labeled_bs, seed)
    return LabeledOnly(n_labeled, batch_size, seed) if n_labeled else UnlabeledOnly(n_unlabeled, batch_size, seed)


def permutations(n: int, rng: np.random.Generator | np.random.RandomState) -> Iterator[np.ndarray]:
    """Fresh permutations of 0..n-1 without end, drawn when asked for."""
    while True:
        yield rng.permutation(n)
