"""What the readers of objects share: the reference has a number an object, of which label maps are made as `--target` says.

    contour       0 background, 1 inside, 2 contour: the pixels on both sides of every border of an object (`contours.borders`)
    foreground    0 background, 1 object; objects that touch are then one
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.contours import borders
from dataloaders.description import Case, DataSet, Evaluation, Item, Objects
from dataloaders.errors import UserError
from dataloaders.layouts.common import checked_shapes, picture_size, read_mask
from dataloaders.layouts.images import ImageSource

FOREGROUND, CONTOUR = "foreground", "contour"


def one_by_one(least: int, grow: int, apart: tuple[str, ...] = ()) -> Evaluation:
    """Photographs predicted whole, their pixels scored image by image, and the objects of class 1. Arguments: see `Objects`."""
    return Evaluation(predicted="whole", objects=Objects((1,), least, grow, apart))


class InstanceSource(ImageSource):
    """Base of the readers of objects. A layout says which cases there are, and how instances are read (`read_instances`)."""

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        given = options or {}
        self.target = given.get("target", CONTOUR)
        self.data = of_target(data, self.target)

    @property
    def cache_key(self) -> str:
        return f"target {self.target}"

    @classmethod
    def described(cls, data: DataSet, root: Path, options: Mapping[str, Any], classes: int, channels: int) -> DataSet:
        return of_target(data, options.get("target", CONTOUR))

    def read_instances(self, file: Path) -> np.ndarray:
        """(H, W) whole numbers of a reference, 0 where there is no object. Raises `UserError`."""
        return read_mask(file)

    def label(self, of: Case | Item) -> np.ndarray | None:
        if of.label is None:
            return None
        ids = self._ids(of.image, of.label)
        label = (ids > 0).astype(np.uint8)
        if self.target == CONTOUR:
            label[borders(ids)] = 2
        return label

    def instances(self, case: Case, label: int) -> np.ndarray:
        if case.label is None:
            raise UserError(f"{case.image}: {case.name} has no reference, so its objects cannot be scored.")
        return self._ids(case.image, case.label)

    def _ids(self, image: Path, file: Path) -> np.ndarray:
        ids = self.read_instances(file)
        if ids.dtype.kind not in "bu" and (ids.dtype.kind != "i" or ids.min() < 0):
            raise UserError(f"{file}: holds {ids.dtype} from {ids.min():g} on; expected 0 for none, and a whole number above it an object.")
        checked_shapes(picture_size(image), ids.shape, image, file)
        return ids


def of_target(data: DataSet, target: str) -> DataSet:
    """A data set of three classes as it is trained on for a target: for the foreground without the last class, and objects do not grow."""
    if target == CONTOUR:
        return data
    objects = data.evaluation.objects
    assert objects is not None
    return replace(data, classes=data.classes[:2], evaluation=replace(data.evaluation, objects=replace(objects, grow=0)))
