"""What a data set is, told as data; and what every layout reader offers.

A data set that fits an existing file layout is one more `DataSet` in `catalog.py` and no code.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

Part = Literal["train", "val", "test"]
Unit = Literal["patient", "image", "volume"]
"""What is counted where labels are."""
Resizing = Literal["corner", "floor"]
"""Nearest neighbour 'corner': scipy's order 0 (end points aligned), the medical protocols; 'floor': OpenCV's, the defect papers."""


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


@dataclass(frozen=True)
class DataSet:
    """A data set and its published protocol."""

    name: str
    layout: str
    """Which reader of `layouts/` understands its files."""
    classes: tuple[str, ...] = ()
    """Class names, background first; empty where the files tell (own folders)."""
    dimensions: int = 2
    channels: int = 1
    unit: Literal["patient", "image"] = "image"
    """What a label budget counts: all cases of a group ("patient") or single cases ("image")."""
    protocols: tuple[str, ...] = ("official",)
    """Splits it knows, the default first."""
    strata: str = ""
    """What the `stratum` of its cases is and how it is known; "" where nothing is known, and draws are not stratified."""
    augmentation: str = "rot_flip"
    """A recipe of `augmentation.recipes`."""
    resizing: Resizing = "corner"
    """How images and label maps of 2D sets are resized, in training, prediction and scoring."""
    intensities: Literal["stored", "8-bit"] = "stored"
    """What pixels are as read: values used as they are, or uint8 of a photograph, divided by 255 in training and prediction."""
    mean: tuple[float, ...] | None = None
    """One a channel, of 8-bit pixels after their division; with `std`, what images are scaled by. None: not scaled."""
    std: tuple[float, ...] | None = None
    ignored: int | None = None
    """Label value that no loss and no metric counts."""
    evaluation: Evaluation = Evaluation()
    family: Literal["medical", "defect"] = "medical"
    """A word that groups data sets of one kind."""
    synthetic: bool = False
    own: bool = False
    """Somebody's own files, of which two folders are two data sets."""
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
    every_nth: bool = False
    """Whether a label budget 1/N labels every N-th volume, as the peer's folds have it."""


class Source(Protocol):
    """A reader of one layout. Listing opens lists and folders only; arrays are read on request and checked.

    Every method raises `UserError` (engine-free: `dataloaders.errors`) with a sentence naming file, found, expected, to do.
    """

    data: DataSet
    root: Path

    def cases(self, part: Part) -> list[Case]:
        """Cases of an official part, in published order; reads no list or folder of another part."""

    def items(self, cases: list[Case]) -> list[Item]:
        """Training images of these cases, in published order."""

    def image(self, of: Case | Item) -> np.ndarray:
        """(C, *spatial) pixels, uint8 (photographs) or float32 (h5); a volume case is (C, D, H, W)."""

    def label(self, of: Case | Item) -> np.ndarray | None:
        """(*spatial) uint8 class ids, values checked; None where there is no label."""

    def spacing(self, case: Case) -> tuple[float, ...] | None:
        """mm per voxel in the array's axis order, None where unknown."""
