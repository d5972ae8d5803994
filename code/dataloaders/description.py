"""What a data set is, told as data; and what every layout reader offers.

A data set that fits an existing file layout is one more `DataSet` in a module of `layouts/` and no code.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
Unit = Literal["patient", "image", "volume"]
"""What is counted where labels are."""
Resizing = Literal["corner", "floor"]
"""Nearest neighbour 'corner': scipy's order 0 (end points aligned), the medical protocols; 'floor': OpenCV's, the defect papers."""


@dataclass(frozen=True)
class Objects:
    """How objects are told apart in a predicted label map, where testers score them one by one (`Source.instances` has the reference)."""

    classes: tuple[int, ...] = (1,)
    """Labels whose connected regions are objects."""
    least: int = 1
    """Pixels: smaller regions are dropped."""
    grow: int = 0
    """Radius of a disk by which regions grow; where a label is the inside of an object alone, its contour belongs to it too."""
    apart: tuple[str, ...] = ()
    """What the names of cases begin with of which the figures of the whole set stand apart too (two official test parts)."""


@dataclass(frozen=True)
class Evaluation:
    """How cases are predicted and scored, in validation and in tests alike."""

    predicted: Literal["resized", "whole", "window"] = "resized"
    """Images resized to the training size and label maps resized back; whole at their native size; or by a sliding window of the patch."""
    scored: Literal["case", "image", "matrix"] = "case"
    """Means over cases at native size (medical papers); over images at training size, of the classes that each has (simEps's defect
    papers); or one confusion matrix over the whole set (natural images)."""
    best_by: Literal["dice", "miou"] = "dice"
    """The mean that chooses the best step."""
    detection: bool = False
    """Whether testers also tell what defect papers do: overlap per image and over the whole set, images found, false alarms."""
    objects: Objects | None = None
    """How objects are found in predictions, for their own scores in tests; None where nothing is told apart."""


@dataclass(frozen=True)
class DataSet:
    """A data set and its published protocol."""

    name: str
    reader: type[Source]
    """Of the layout in which its files lie."""
    classes: tuple[str, ...] = ()
    """Class names, background first; empty where the files tell (own folders)."""
    dimensions: int = 2
    channels: int = 1
    unit: Literal["patient", "image"] = "image"
    """What a label budget counts: all cases of a group ("patient") or single cases ("image")."""
    protocols: tuple[str, ...] = ("official",)
    """Splits it knows, the default first; its reader's `protocols` make them."""
    strata: str = ""
    """What the `stratum` of its cases is and how it is known; "" where nothing is known, and draws are not stratified."""
    augmentation: str = "rot_flip"
    """A recipe of `augmentation.recipes`."""
    resizing: Resizing = "corner"
    """How images and label maps of 2D sets are resized, in training, prediction and scoring."""
    intensities: Literal["stored", "8-bit"] = "stored"
    """What pixels are as read: values used as they are, or uint8 of a photograph, divided by 255 in training and prediction."""
    scaling: tuple[str, ...] = ()
    """Own volumes: how each channel is scaled when it is read (`intensities.scaled`)."""
    mean: tuple[float, ...] | None = None
    """One a channel, of 8-bit pixels after their division; with `std`, what images are scaled by. None: not scaled."""
    std: tuple[float, ...] | None = None
    white: float | None = None
    """Own pictures of 16 bits or floats: the value that is read as 255, one for the data set; None: 8 bits, or each by its own depth."""
    ignored: int | None = None
    """Label value that no loss and no metric counts."""
    evaluation: Evaluation = Evaluation()
    family: Literal["medical", "defect", "natural"] = "medical"
    """A word that groups data sets of one kind."""
    synthetic: bool = False
    own: bool = False
    """Somebody's own files, of which two folders are two data sets."""
    annotated: Mapping[int, int | None] = field(default_factory=dict)
    """By axis: which slice a publication annotates of each labelled volume, None for the middle one; empty where there is none."""
    special: bool = False
    """Lies on disk as another data set does, and is meant where both fit."""
    options: tuple[str, ...] = ()
    """Common options that mean something here, and nothing for data sets that do not name them."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """What its authors do alike in all methods: values of the common options (patch_size, batch_size, ...), and of options that several
    methods have (consistency_rampup), for those that have them."""
    protocol_defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By protocol: values that it brings in place of `defaults`."""
    note: str = ""
    """One sentence said on screen and in every result (empty for none)."""

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Case:
    """What is split, labelled and scored: a volume (ACDC: one frame of one patient) or an image.

    `name` is unique in the data set and may hold '/'. Cases of one `group` (patient, piece of steel) never stand on
    two sides of a split. `stratum` comes from folder names, lists or numbering, never from masks.
    """

    name: str
    image: Path
    label: Path | None
    """The file with the reference (the image's own file for h5); None: there is no label."""
    group: str
    stratum: str = ""
    part: Part = "train"


@dataclass(frozen=True)
class Item:
    """One training image: a case itself (`index` None), a file of one slice, or slice `index` of a volume file."""

    name: str
    case: Case
    image: Path
    label: Path | None
    index: int | None = None
    written: Path | None = None
    """A label that an earlier stage wrote (a pseudo mask), trained on in place of `label`: .png or .npy, (*spatial) uint8 class ids."""
    annotated: tuple[tuple[int, int], ...] = ()
    """Of a volume: (axis, index) of the slices whose labels are known, the rest being ignored; empty: all is known."""
    maps: Mapping[str, Path] = field(default_factory=dict)
    """Named per-pixel maps that an earlier stage wrote (weights, confidence): .png or .npy, (*spatial) uint8 or float32."""


@dataclass(frozen=True)
class Parts:
    """A split before labels are dealt out; `test` is None where it stays unopened."""

    name: str
    train: list[Case]
    val: list[Case]
    test: list[Case] | None
    remarks: tuple[str, ...] = ()
    grouped: bool = True
    """Whether groups are whole in each part, so that copies of labelled images are known."""
    val_is_test: bool = False
    """Whether the checkpoint is chosen on the very cases that are tested, as the peer's folds have it."""
    budgets: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Published labelled lists by their number of names; a label budget is then one of these numbers. Empty: any number, by order."""
    every_nth: bool = False
    """Whether a label budget 1/N labels every N-th volume, as the peer's folds have it."""


Box = tuple[slice, slice, slice]


@dataclass
class NewImage:
    """An image or volume that is no case of the data set, as its reader gives it to a network that was trained there."""

    pixels: np.ndarray
    """(C, S, H, W), a picture with S = 1; of a 3D data set (C, X, Y, Z)."""
    size: tuple[int, ...]
    """Of the file, in the order of `pixels`: (H, W) of a picture, (S, H, W) or (X, Y, Z) of a volume."""
    affine: np.ndarray | None = None
    """(4, 4): index of a voxel in the file's (x, y, z) -> mm in RAS+; None where unknown, and for pictures."""
    spacing: tuple[float, ...] | None = None
    """mm a voxel in the order of `size`; None where unknown, and for pictures."""
    header: Any = None
    """Of a NIfTI file, as nibabel has it: a prediction keeps it (`layouts.nifti.in_place_of`)."""
    box: Box | None = None
    """Which part of `size` the pixels are (BraTS: the box of the brain); None: all."""
    remarks: list[str] = field(default_factory=list)

    @property
    def is_picture(self) -> bool:
        return len(self.size) == 2


PartsOf = Callable[["Source", int, bool], Parts]
"""A protocol: the parts, given the source, --split_seed, and whether the test part is wanted (it is not opened otherwise)."""
FoldOf = Callable[[list[Case], int, int, int], Parts]
"""The parts of a fold, given all cases, the fold, their number, and --split_seed."""


def official_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The parts that the data set's lists or folders name."""
    return Parts("official", source.cases("train"), source.cases("val"), source.cases("test") if with_test else None)


class Source(ABC):
    """A reader of one layout. Listing opens lists and folders only; arrays are read on request and checked.

    Every method raises `UserError` with a sentence naming file, found, expected, to do.
    """

    protocols: ClassVar[Mapping[str, PartsOf]] = {"official": official_parts}
    """By name: the splits that this layout can make."""
    folds: ClassVar[Mapping[str, FoldOf]] = {}
    """By protocol: folds of its own; those of other protocols deal groups out (`splits.folds`)."""
    new_endings: ClassVar[tuple[str, ...]]
    """Of files that `read_new` takes, in lower case."""

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        self.data, self.root = data, Path(root)
        self.remarks: list[str] = []
        """What the user should know about the files."""
        self.rounded: set[Path] = set()
        """Labels of floats that were rounded when they were read."""
        self.doubts: dict[Path, str] = {}
        """By image what makes the place in space that its header gives doubtful."""

    @classmethod
    @abstractmethod
    def fits(cls, root: Path) -> bool:
        """Whether a folder has this layout."""

    @abstractmethod
    def cases(self, part: Part) -> list[Case]:
        """Cases of an official part, in published order; reads no list or folder of another part."""

    def pool(self) -> list[Case]:
        """All cases, of whatever part: what folds are made of."""
        return [case for part in PARTS for case in self.cases(part)]

    def has_part(self, part: Part) -> bool:
        """Whether the files name this part; where those of somebody's own data do not, it is drawn."""
        return True

    def items(self, cases: list[Case]) -> list[Item]:
        """Training images of these cases, in published order: the cases themselves, or their slices."""
        return [Item(case.name, case, case.image, case.label) for case in cases]

    @abstractmethod
    def image(self, of: Case | Item) -> np.ndarray:
        """(C, *spatial) pixels, uint8 or float32 as `DataSet.intensities` says; a volume case of a 2D data set is (C, S, H, W)."""

    @abstractmethod
    def label(self, of: Case | Item) -> np.ndarray | None:
        """(*spatial) uint8 class ids, values checked; None where there is no label."""

    def instances(self, case: Case, label: int) -> np.ndarray:
        """(H, W) whole numbers: the objects of a class, each with a number of its own, 0 elsewhere; of data sets that have objects
        (`Evaluation.objects`). Raises TypeError for others."""
        raise TypeError(f"{type(self).__name__} tells no objects apart")

    def spacing(self, case: Case) -> tuple[float, ...] | None:
        """mm per voxel in the array's axis order, None where unknown."""
        return None

    def affine(self, case: Case) -> np.ndarray | None:
        """(4, 4) float64: index in the array's own axis order to mm (RAS+), None where unknown."""
        return None

    def header(self, case: Case) -> Any:
        """The header of the case's NIfTI file, which its predictions keep; None for other formats."""
        return None

    @property
    def cache_key(self) -> str:
        """What arrays depend on beside their files and the data set's name."""
        return ""

    @classmethod
    def unlisted(cls, root: Path, known: set[Path]) -> list[Case | Item]:
        """Images in the layout's folders that no list names, `known` being those that some list does."""
        return []

    @classmethod
    def described(cls, data: DataSet, root: Path, options: Mapping[str, Any], classes: int, channels: int) -> DataSet:
        """The description of a finished run's data set as its source had it, though its images need not be there any more.

        options: the run's; classes, channels: those of its network.
        """
        return data

    @classmethod
    @abstractmethod
    def read_new(cls, data: DataSet, files: Sequence[Path]) -> NewImage:
        """A new image, given in one file or (own volumes) in one a channel, read and scaled as those that were trained on."""

    @classmethod
    def channel_of(cls, data: DataSet, stem: str) -> str | None:
        """The case of which a new file with this name (without its ending) is one channel; None where a file is a whole image."""
        return None
