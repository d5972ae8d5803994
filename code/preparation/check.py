"""Everything that is wrong with a data folder, found by reading all of it.

Files are read in child processes: the HDF5 library can crash or hang on a damaged file, and then only that file is unreadable.
"""
from __future__ import annotations

import multiprocessing
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import LifoQueue
from shlex import quote
from typing import get_args

import numpy as np

from dataloaders.catalog import open_source
from dataloaders.description import Case, DataSet, Item, Part, Source
from dataloaders.errors import UserError
from dataloaders.intensities import APART
from dataloaders.layouts.acdc import volume_of
from dataloaders.layouts.common import checked_shapes
from dataloaders.masks import Facts, two_ways
from dataloaders.progress import Progress
from preparation.copies import Print, copies, print_of

PARTS = get_args(Part)
PATIENCE_S = 300.0
"""A file that takes longer to read is given up."""
LEAST_MM, MOST_MM = 5e-3, 50.0
"""Sides of a voxel beyond which a wrong unit is likely."""
LEAST_MASKS = 3
"""Of one's own images without parts, for `layouts.folder` to draw the parts from."""
DARK = 16
"""Of 255: pictures none of which has a brighter pixel are remarked on."""


@dataclass
class Listing:
    """What the lists and folders of a part name."""

    cases: list[Case] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    data: DataSet | None = None
    """The description as the source has it, which for own files tells the classes."""


@dataclass
class Reading:
    """What a file holds; `counts` are pixels a class."""

    problem: str = ""
    constant: bool = False
    counts: dict[int, int] | None = None
    greatest: float = 0.0
    """The greatest pixel."""
    spacing: tuple[float, ...] | None = None
    doubt: str = ""
    """What makes the place that its header gives doubtful."""
    shape: tuple[int, ...] = ()
    rounded: bool = False
    """Whether the label holds floats that are no whole numbers to the last digit."""
    print: Print | None = None
    """Of a picture, by which its copies are found; volumes have none."""


@dataclass
class Report:
    data: DataSet
    sizes: dict[str, int]
    """Cases of each part, and training slices."""
    problems: list[str]
    remarks: list[str]


def check_folder(data: DataSet, root: Path, workers: int) -> Report:
    """Lists every part, reads every image and label, and tells what is wrong (problems) or odd (remarks)."""
    with Children(data, root, workers) as children:
        listings = dict(zip(PARTS, children.map(PARTS)))
        described = next((listing.data for listing in listings.values() if listing.data), data)
        problems = [p for listing in listings.values() for p in listing.problems]
        remarks = [r for listing in listings.values() for r in listing.remarks]
        targets: list[Case | Item] = [case for part in PARTS for case in listings[part].cases]
        slices = [item for item in listings["train"].items if item.index is None and item.image != item.case.image]
        sliced = {item.case.name for item in slices}
        absent = [case for case in targets if isinstance(case, Case) and case.name in sliced and not case.image.exists()]
        if absent:
            remarks.append(f"{root}: {len(absent)} training cases have slices but no volume ({absent[0].image.name}, ...); "
                           "enough for the official split, but --fold needs the volumes.")
            targets = [target for target in targets if target not in absent]
        targets += slices
        unlisted = data.reader.unlisted(root, {target.image for target in targets})
        # Slices of validation and test volumes are in no list by custom.
        listed = {case.name for listing in listings.values() for case in listing.cases}
        strangers = [of for of in unlisted if volume_of(of.name) not in listed]
        if strangers:
            remarks.append(f"{root}: {len(strangers)} files are in no list ({strangers[0].image.name}, ...); read all the same.")
        targets += unlisted
        readings = list(Progress(children.map(targets), "reading", len(targets), unit="file"))
    problems += [reading.problem for reading in readings if reading.problem]
    remarks += oddities(described, targets, readings) + outside(root, targets)
    masks = sum(isinstance(target, Case) and reading.counts is not None for target, reading in zip(targets, readings))
    if data.own and 0 < masks < LEAST_MASKS and not listings["test"].cases and not listings["val"].cases:
        remarks.append(f"{root}: {masks} images with a mask; training needs {LEAST_MASKS} at least, one to learn from, one for validation, "
                       f"one for test. Which to label next: python code/advise.py --root_path {quote(str(root))} --next 10")
    seen = [(target, reading.print) for target, reading in zip(targets, readings) if isinstance(target, Case) and reading.print]
    remarks += [f"{root}: {said}" for said in copies([case for case, _ in seen], [one for _, one in seen])]
    problems += [] if problems else judged(described, root, targets, readings)
    sizes = {part: len(listings[part].cases) for part in PARTS} | ({"slices": len(slices)} if data.dimensions == 2 else {})
    if not problems and not targets:
        problems.append(f"{root}: no case of {data.name} was found in it.")
    return Report(data, sizes, list(dict.fromkeys(problems)), list(dict.fromkeys(remarks)))


def oddities(data: DataSet, targets: list[Case | Item], readings: list[Reading]) -> list[str]:
    """Remarks: constant images, missing labels, classes that are empty in a volume or in a whole part."""
    remarks, unlabeled, bare, labeled = [], defaultdict[str, int](int), defaultdict[str, int](int), defaultdict[str, int](int)
    seen: dict[str, dict[int, int]] = {}
    for target, reading in zip(targets, readings):
        if reading.problem:
            continue
        if reading.constant:
            remarks.append(f"{target.image}: every pixel has the same value.")
        if reading.spacing and not all(LEAST_MM <= step <= MOST_MM for step in reading.spacing):
            steps = " x ".join(f"{step:g}" for step in reading.spacing)
            remarks.append(f"{target.image}: voxels of {steps} mm; is the unit in its header right? Scores in mm follow it.")
        if not isinstance(target, Case):
            continue
        if reading.counts is None:
            unlabeled[target.part] += 1
            continue
        labeled[target.part] += 1
        totals = seen.setdefault(target.part, defaultdict(int))
        for value, count in reading.counts.items():
            totals[value] += count
        bare[target.part] += not any(count for value, count in reading.counts.items() if value not in (0, data.ignored))
        if data.unit == "patient" or data.dimensions == 3:
            empty = [name for value, name in enumerate(data.classes) if not reading.counts.get(value)]
            if empty:
                remarks.append(f"{target.label}: no pixel of {', '.join(empty)}.")
    for part, count in unlabeled.items():
        remarks.append(f"{part}: {count} cases have no label" + ("; they serve as unlabelled ones." if part == "train" else
                                                                   "; they cannot be scored."))
    for part, totals in seen.items():
        empty = [name for value, name in enumerate(data.classes) if not totals.get(value)]
        if empty:
            remarks.append(f"{part}: no case has a pixel of {', '.join(empty)}.")
        if bare[part]:
            remarks.append(f"{part}: {bare[part]} of {labeled[part]} labels hold nothing but background.")
    rounded = [target.label for target, reading in zip(targets, readings) if reading.rounded and not reading.problem]
    if rounded:
        remarks.append(f"{rounded[0]}: floats that nearly are whole numbers, as {len(rounded)} labels have; they are rounded. Labels are "
                       "better saved as uint8 with scl_slope 1.")
    doubts = [f"{target.image}: {reading.doubt}" for target, reading in zip(targets, readings) if reading.doubt]
    if doubts:
        remarks.append(doubts[0] + (f" ({len(doubts)} files are so.)" if len(doubts) > 1 else ""))
    thin = [(target.image, reading.shape) for target, reading in zip(targets, readings) if data.dimensions == 2 and not reading.problem
            and len(reading.shape) == 3 and 2 * min(reading.shape[1:]) < reading.shape[0]]
    if thin:
        image, (slices, *sides) = thin[0]
        remarks.append(f"{image}: {slices} slices of {sides[0]} x {sides[1]} pixels, as {len(thin)} volumes have it or alike; are its axes "
                       "(slice, y, x)?")
    bright = [reading.greatest for reading in readings if not reading.problem]
    positive = sorted((reading.greatest, target.image) for target, reading in zip(targets, readings) if reading.greatest > 0)
    if data.intensities == "stored" and positive and positive[-1][0] > APART * positive[0][0]:
        (least, dark), (most, light) = positive[0], positive[-1]
        remarks.append(f"{light}: values up to {most:g}, but only up to {least:g} in {dark.name}: two scales? They are used as stored.")
    if data.intensities == "8-bit" and bright and max(bright) < DARK:
        remarks.append(f"The brightest pixel of all images is {max(bright):g} of 255: nearly black. Class ids, or another scale?")
    return remarks


def outside(root: Path, targets: list[Case | Item]) -> list[str]:
    """A remark on files that links lead to out of the data set's folder."""
    base = root.resolve()
    files = [file for target in targets for file in {target.image, target.label or target.image}]
    found = [place for file in files if not (place := file.resolve()).is_relative_to(base)]
    many = f"{root}: {len(found)} of {len(files)} files lie elsewhere, behind links"
    return [f"{many} ({found[0]}, ...); they are read there."] if found else []


def judged(data: DataSet, root: Path, targets: list[Case | Item], readings: list[Reading]) -> list[str]:
    """What is wrong with the labels as a set (`masks.meaning`), of training and validation and of test cases."""
    found = []
    for parts in (("train", "val"), ("test",)):
        masks = [Facts(target.label or target.image, frozenset(reading.counts)) for target, reading in zip(targets, readings)
                 if isinstance(target, Case) and target.part in parts and reading.counts]
        foreground = frozenset[int]().union(*(mask.values for mask in masks)) - {0, data.ignored}
        if masks and not foreground:
            found.append(f"{root}: no label of {' and '.join(parts)} has a pixel of {' or '.join(data.classes[1:])}.")
        if data.ignored is not None and (mixed := two_ways(masks, foreground)):
            found.append(f"{root}: {mixed}. Where 255 means ignored, take these masks out: no class is in them. Else write all alike.")
    return found


class Children:
    """Processes that list and read, each led by a thread; one that dies or hangs costs its task only and is replaced."""

    def __init__(self, data: DataSet, root: Path, workers: int):
        # A description may hold a read-only mapping, which cannot be sent; the readers do not need the defaults.
        self.start_arguments = (sendable(data), root)
        self.context = multiprocessing.get_context("spawn")
        self.threads = ThreadPoolExecutor(workers)
        self.idle: LifoQueue[Child | None] = LifoQueue()
        for _ in range(workers):
            self.idle.put(None)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown(wait=True, cancel_futures=True)
        while not self.idle.empty():
            child = self.idle.get()
            if child:
                child.stop()

    def map(self, tasks: Iterable[object]) -> Iterator:
        """Answers in the order of the tasks: a `Listing` for a part, a `Reading` for a case or an item."""
        return self.threads.map(self.ask, tasks)

    def ask(self, task: object) -> object:
        child = self.idle.get() or Child(self.context, self.start_arguments)
        lives = True
        try:
            return child.ask(task)
        except (EOFError, OSError, TimeoutError) as error:
            child.stop()
            lives = False
            happened = f"takes more than {PATIENCE_S:g} s" if isinstance(error, TimeoutError) else "crashes the library that reads it"
            if isinstance(task, Case | Item):
                return Reading(f"{task.image}: unreadable, {happened}; download it again.")
            return Listing(problems=[f"{self.start_arguments[1]}: unreadable, listing the part {task} {happened}."])
        finally:
            self.idle.put(child if lives else None)


def sendable(data: DataSet) -> DataSet:
    """A description without the mappings that may be read-only, which cannot be sent to another process."""
    return replace(data, defaults={}, protocol_defaults={})


class Child:
    """One process and the pipe to it."""

    def __init__(self, context: multiprocessing.context.SpawnContext, arguments: tuple[DataSet, Path]):
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, *arguments), daemon=True)
        self.process.start()
        # Without this copy the pipe ends when the child does.
        other.close()

    def ask(self, task: object) -> object:
        self.pipe.send(task)
        if not self.pipe.poll(PATIENCE_S):
            raise TimeoutError
        return self.pipe.recv()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def serve(pipe: Connection, data: DataSet, root: Path) -> None:
    """The life of a child: answers tasks until the pipe ends."""
    source = None
    try:
        while True:
            task = pipe.recv()
            if not isinstance(task, Case | Item):
                pipe.send(list_part(data, root, task))
                continue
            # Opened once: a reader of own files may have to look into all of them to know the classes.
            source = source or open_source(data, root)
            pipe.send(read(source, task))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return


def list_part(data: DataSet, root: Path, part: Part) -> Listing:
    """Cases of a part, and the training slices."""
    listing = Listing()
    try:
        source = open_source(data, root)
        listing.data = sendable(source.data)
        # Earlier parts first: a reader compares a part with those it has seen (a patient on two sides).
        for earlier in PARTS[:PARTS.index(part)]:
            try:
                source.cases(earlier)
            except UserError:
                continue
        listing.cases = source.cases(part)
        if part == "train":
            for case in listing.cases:
                try:
                    listing.items += source.items([case])
                except UserError as error:
                    listing.problems.append(str(error))
    except UserError as error:
        listing.problems.append(str(error))
    except Exception as error:  # whatever a library raises of a foreign file is no reason to stop
        listing.problems.append(f"{root}: the part {part} cannot be listed ({type(error).__name__}: {error}).")
    else:
        listing.remarks += source.remarks
    return listing


def read(source: Source, target: Case | Item) -> Reading:
    """Reads an image and its label with all checks of the reader."""
    try:
        image = source.image(target)
        label = source.label(target)
        if label is not None:
            checked_shapes(image.shape[1:], label.shape, target.image, target.label or target.image)
        steps = source.spacing(target) if isinstance(target, Case) else None
        if isinstance(target, Case):
            source.affine(target)
    except UserError as error:
        return Reading(str(error))
    except Exception as error:  # whatever a library raises of a foreign file is no reason to stop
        return Reading(f"{target.image}: cannot be read ({type(error).__name__}: {error}).")
    counts = None if label is None else {int(v): int(n) for v, n in zip(*np.unique(label, return_counts=True))}
    flat = isinstance(target, Case) and image.ndim == 3 and source.data.dimensions == 2
    return Reading(constant=bool(image.min() == image.max()), counts=counts, greatest=float(image.max()), spacing=steps,
                   doubt=source.doubts.get(target.image, ""), shape=image.shape[1:], rounded=target.label in source.rounded,
                   print=print_of(image, label) if flat else None)
