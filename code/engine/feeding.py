"""What a stage is fed: which training images, with whose labels, with which maps beside them; read once, and dealt in batches."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from command_line.options import Options
from dataloaders.annotation import largest_slices, published_slices
from dataloaders.augmentation.frame import Fill
from dataloaders.batches.loader import Loader
from dataloaders.batches.store import Store, build_store
from dataloaders.description import Case, Item, Source
from dataloaders.errors import UserError
from dataloaders.masks import learned
from dataloaders.reading import problems
from dataloaders.splits.split import Split
from losses.ranks import world
from system import distributed

Say = Callable[[str], object]


@dataclass(frozen=True)
class Fed:
    """What `Stage.batches` was asked for. None: as the run has it."""

    labeled: Sequence[Item] | None = None
    unlabeled: Sequence[Item] | None = None
    maps: Mapping[str, Fill | float] = field(default_factory=dict)
    batch_size: int | None = None
    labeled_bs: int | None = None
    labeled_only: bool = False
    policy: Any = None
    recipe: str | None = None
    views: int = 1
    draws: int = 1
    drop_last: bool = False
    parts: Sequence[tuple[int, int]] = ()
    turns: Sequence[int] = ()


class Places(NamedTuple):
    """Where in a store the images of a stage are, in the order in which they were given; one may stand several times."""

    labeled: np.ndarray
    unlabeled: np.ndarray


class Training:
    """The training images of a run: its items, and stores of them, each read once."""

    def __init__(self, source: Source, split: Split, options: Options, device: torch.device, check_validation: Callable[[], object]):
        self.source, self.split, self.options, self.device = source, split, options, device
        self._check_validation = check_validation
        self._items: dict[bool, list[Item]] = {}
        self._stores: list[tuple[tuple[Any, ...], Store]] = []
        self._judged = False

    def items(self, labeled: bool) -> list[Item]:
        """The labelled, or the unlabelled, training images in published order. Raises `UserError`."""
        if labeled not in self._items:
            items = self.source.items(list(self.split.labeled if labeled else self.split.unlabeled))
            self._items[labeled] = [self._annotated(item) for item in items] if labeled else items
        return self._items[labeled]

    def _annotated(self, item: Item) -> Item:
        """The item with the slices of which --annotation says that they are known."""
        label = None if self.options.annotation == "full" else self.source.label(item)
        if label is None:
            return item
        if self.options.annotated_slices == "published":
            return replace(item, annotated=published_slices(label, self.source.data.annotated, item.name))
        return replace(item, annotated=largest_slices(label))

    def store(self, fed: Fed, say: Say) -> tuple[Store, Places]:
        """All images that a stage is fed, each once, and where its labelled and its unlabelled ones are; all problems are raised together.

        Of several processes the first reads, and writes the cache; the others map it.
        """
        return distributed.in_turn(lambda: self._read(fed, say))

    def _read(self, fed: Fed, say: Say) -> tuple[Store, Places]:
        try:
            labeled = list(self.items(True) if fed.labeled is None else fed.labeled)
            unlabeled: list[Item] = []
            if not fed.labeled_only:
                unlabeled = list(self.items(False) if fed.unlabeled is None else fed.unlabeled)
            key = (tuple(labeled), tuple(unlabeled), tuple(fed.maps))
            once = {(item.name, item.written): item for item in [*labeled, *unlabeled]}  # a list may have an image several times
            place = dict(zip(once, range(len(once))))
            places = Places(*(np.array([place[item.name, item.written] for item in items], np.int64) for items in (labeled, unlabeled)))
            store = next((store for known, store in self._stores if known == key), None)
            if store is None:
                marks = np.isin(np.arange(len(once)), places.labeled).tolist()
                store = build_store(self.source, list(once.values()), marks, self.options.cache, self.device,
                                    progress=distributed.first(), remark=say, maps=tuple(fed.maps))
                self._stores = [(key, store)]  # one at a time: the one before may hold gigabytes
                self._judge(store, len(labeled), fed, say)
            self._check_validation()
        except UserError:
            # Every file of the run is read once more, so that all that is wrong is said at once.
            problems(self.source, self.split.labeled, self.split.val, () if fed.labeled_only else self.split.unlabeled)
            raise
        return store, places

    def files(self, fed: Fed) -> list[Path]:
        """The files of the data set that a stage is fed, and those of the validation cases; what stages have written is not among them."""
        labeled = list(self.items(True) if fed.labeled is None else fed.labeled)
        others = [] if fed.labeled_only else list(self.items(False) if fed.unlabeled is None else fed.unlabeled)
        channels: Callable[[Case], Sequence[Path]] = getattr(self.source, "channel_files", lambda case: ())
        found = [file for item in [*labeled, *others] for file in (item.image, *(channels(item.case) if item.index is None else ()))]
        found += [item.label for item in labeled if item.label is not None and item.written is None]
        for case in self.split.val:
            found += [case.image, *channels(case), *([case.label] if case.label is not None else [])]
        return found

    def _judge(self, store: Store, labeled: int, fed: Fed, say: Say) -> None:
        """Says what is odd about the labels that the run learns from, once; refuses labels of background alone."""
        if fed.labeled is None and not self._judged:
            data = self.source.data
            labels = (label for k in range(labeled) if (label := store.label(k)) is not None)
            for remark in learned(labels, data.classes, data.ignored, f"{data.name} in {self.source.root}"):
                say(remark)
            self._judged = True


def loader_of(fed: Fed, store: Store, places: Places, options: Options, data: Any, seed: int, device: torch.device) -> Loader:
    """The batches of a stage from its store."""
    fills = {name: fill if isinstance(fill, Fill) else Fill(fill, fill, fill) for name, fill in fed.maps.items()}
    batch_size, labeled_bs = fed.batch_size or options.batch_size, fed.labeled_bs or options.labeled_bs
    recipe = fed.recipe or (data.augmentation if fed.policy is None else "none")
    with torch.random.fork_rng(devices=[]):
        return Loader(
            store, places.labeled, places.unlabeled, batch_size=batch_size, labeled_bs=labeled_bs,
            patch_size=options.patch_size, recipe=recipe, resizing=data.resizing, seed=seed, device=device, mean=data.mean,
            std=data.std, steps_per_epoch=options.steps_per_epoch, labeled_only=fed.labeled_only, policy=fed.policy,
            rank=distributed.rank(), world=world(), threads=distributed.threads(), maps=fills, views=fed.views, draws=fed.draws,
            parts=fed.parts, turns=fed.turns, drop_last=fed.drop_last)


def told(fed: Fed, store: Store, places: Places, options: Options, things: str, where: str) -> list[str]:
    """The lines that tell what a stage is fed. `things`: images or volumes; `where`: for how long, and on what."""
    batch_size, labeled_bs = fed.batch_size or options.batch_size, fed.labeled_bs or options.labeled_bs
    labeled, unlabeled = len(np.unique(places.labeled)), len(places.unlabeled)
    unused = "" if fed.batch_size else " (--labeled_bs is not used)"
    rows = f"batch {batch_size}, all labelled{unused}" if fed.labeled_only else (
        f"batch {labeled_bs} labelled + {batch_size - labeled_bs} unlabelled")
    if fed.parts:
        rows = f"dealt to {len(fed.parts)} parts in turns; batch {batch_size}, where a part has both kinds {labeled_bs} of them labelled"
    lines = [f"{labeled} labelled and {unlabeled} unlabelled {things} ({store.memory / 2**20:.0f} MiB, {store.place}); {rows}, "
             f"{'x'.join(map(str, options.patch_size))}, {where}."]
    if not fed.labeled_only and not fed.parts and labeled < labeled_bs:
        lines.append(f"There are fewer labelled {things} ({labeled}) than labelled rows in a batch ({labeled_bs}): rows repeat.")
    return lines
