"""Each image of a batch gets a labelled partner that shows a class of it (CISC-R, STI): who may be one, and which class both show."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dataloaders.augmentation.strong_views import send
from dataloaders.description import DataSet

TRIES = 10
"""How often a partner is cropped anew until it shows a class of the image."""
Augmented = Callable[[np.ndarray, np.random.Generator], tuple[Tensor, Tensor]]
"""Images and labels of labelled images by their places, under an augmentation drawn from a generator."""


@dataclass(frozen=True)
class Pairs:
    """The partners of B images, and where each pair shows the class that it was made for (nowhere, if it has none)."""

    images: Tensor
    """(B, C, H, W) of the partners."""
    labels: Tensor
    """(B, H, W) of the partners."""
    own: Tensor
    """(B, H, W) bool, in the images."""
    theirs: Tensor
    """(B, H, W) bool, in the partners."""


def shown(label: np.ndarray, num_classes: int, least: float, first: int) -> np.ndarray:
    """(C,) bool: which classes from `first` on cover at least that share of a label map (H, W), ignored pixels counted in its size."""
    found = np.bincount(label.ravel(), minlength=256)[:num_classes] >= max(least * label.size, 1)
    found[:first] = False
    return found


def pool(classes: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """(n,) how often each of n labelled images may be drawn: once for each class (C,) that it is listed for (C, n); all once if none is."""
    counts = lists[classes].sum(0)
    return counts if counts.any() else np.ones(lists.shape[1], np.int64)


def without(counts: np.ndarray, itself: int | None) -> np.ndarray:
    """The pool without the image itself, where there is another; where no other shares a class, all others."""
    if itself is None or len(counts) < 2:
        return counts
    others = np.arange(len(counts)) != itself
    return np.where(others, counts, 0) if counts[others].any() else others.astype(np.int64)


def masks(labels: Tensor, others: Tensor, shared: np.ndarray, orders: np.ndarray) -> tuple[Tensor, Tensor]:
    """(B, H, W) bool each: where images and partners show the first class of their order (B, C) that is shared (B, C); nowhere if none."""
    ranked = np.take_along_axis(shared, orders, 1)
    chosen = np.where(ranked.any(1), np.take_along_axis(orders, ranked.argmax(1)[:, None], 1)[:, 0], -1)
    wanted = send(chosen, labels.device)[:, None, None]
    return labels == wanted, others == wanted


class Search:
    """Finds partners of images among n labelled ones, which are listed by the classes that they show.

    Args:
        labels: by name, the label maps (H, W) of the labelled images, as stored.
        data: the data set's description; a background is not searched for.
        least: share of an image that a class must cover to be shown.
        how: partners share a "class", or are any labelled images ("random").
    """

    def __init__(self, labels: Mapping[str, np.ndarray], data: DataSet, least: float, how: str):
        self.num_classes, self.first = data.num_classes, int(data.classes[0] == "background")
        self.least, self.by_class = least, how == "class"
        self.lists = np.stack([self.shown(label) for label in labels.values()], 1)
        self.places = {name: place for place, name in enumerate(labels)}

    def shown(self, label: np.ndarray) -> np.ndarray:
        """(C,) bool: the classes that a label map shows."""
        return shown(label, self.num_classes, self.least, self.first)

    def keep_better_half(self, errors: Sequence[Sequence[float]]) -> None:
        """Leaves in each class's list the half with the smaller errors (n, C)."""
        self.lists = better_half(self.lists, np.array(errors).T)

    def partners(self, names: Sequence[str], labels: Tensor, rng: np.random.Generator, augmented: Augmented) -> Pairs:
        """Partners of images with these labels (B, H, W), labelled or not; none is its own. `names`: of the batch, whose last they are."""
        mine, lists = self._all_shown(labels), self.lists & self.by_class
        pools = [without(pool(classes, lists), self.places.get(name)) for classes, name in zip(mine, names[-len(mine) :])]
        places = np.array([rng.choice(len(counts), p=counts / counts.sum()) for counts in pools])
        images, others = augmented(places, rng)
        shared = mine & self._all_shown(others)
        for _ in range(TRIES):
            again = np.flatnonzero((mine & lists[:, places].T).any(1) & ~shared.any(1))
            if not len(again):
                break
            rows = send(again, others.device)
            further_images, further_labels = augmented(places[again], rng)
            images, others = images.index_copy(0, rows, further_images), others.index_copy(0, rows, further_labels)
            shared = mine & self._all_shown(others)
        orders = np.stack([rng.permutation(self.num_classes) for _ in places])
        return Pairs(images, others, *masks(labels, others, shared, orders))

    def _all_shown(self, labels: Tensor) -> np.ndarray:
        return np.stack([self.shown(label) for label in labels.cpu().numpy()])


def better_half(lists: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """(C, n) bool: of each class's list the half of the images with the smaller errors (C, n), rounded down, one at least."""
    kept = np.zeros_like(lists)
    for c, members in enumerate(lists):
        places = np.flatnonzero(members)
        best = places[np.argsort(errors[c, places], kind="stable")]
        kept[c, best[: max(len(best) // 2, 1)]] = True
    return kept
