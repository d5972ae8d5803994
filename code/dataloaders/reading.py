"""A case read whole, as validation and testers need it; and everything that is wrong with the files of a run."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataloaders.description import Case, Item, Source
from dataloaders.errors import Problems, UserError


@dataclass
class EvaluationCase:
    """A case with its reference, at native size."""

    case: Case
    pixels: np.ndarray
    """(C, S, H, W) as read; a photograph has S = 1; volumes of a 3D data set are (C, X, Y, Z)."""
    reference: np.ndarray
    """(S, H, W) or (X, Y, Z) uint8 class ids, 255 ignored."""
    spacing: tuple[float, ...] | None = None
    """mm per voxel in the array's axis order, None where unknown."""
    affine: np.ndarray | None = None
    """(4, 4): array index -> mm in RAS+ (as nibabel has it), None where unknown."""
    header: Any = None
    """Of a NIfTI file, as nibabel has it; None for other formats."""


def load_case(source: Source, case: Case) -> EvaluationCase:
    """Reads image and label of a case. Raises `UserError` where it has no label to score against."""
    pixels, reference = source.image(case), source.label(case)
    if reference is None:
        raise UserError(f"{case.image}: {case.name} has no label, so it cannot be scored.")
    if pixels.ndim == 3:
        pixels, reference = pixels[:, None], reference[None]
    if pixels.shape[1:] != reference.shape:
        raise UserError(f"{case.label}: the label of {case.name} is {reference.shape}, its image {pixels.shape[1:]}; they must be equal.")
    return EvaluationCase(case, pixels, reference, source.spacing(case), source.affine(case), source.header(case))


def problems(source: Source, labeled: Iterable[Case], val: Iterable[Case], unlabeled: Iterable[Case]) -> None:
    """Reads the images of all these cases, labels of labelled and validation cases too; raises one `UserError` with all that is wrong."""
    found = Problems()

    def look(of: Case | Item, with_label: bool) -> None:
        try:
            source.image(of)
            if with_label and source.label(of) is None:
                found.add(f"{of.image}: {of.name} has no label, but is among the cases that need one.")
            if isinstance(of, Case):
                source.spacing(of)
        except UserError as error:
            found.add(error)

    for cases, with_label in ((labeled, True), (unlabeled, False)):
        for case in cases:
            try:
                items = source.items([case])
            except UserError as error:
                found.add(error)
                continue
            for item in items:
                look(item, with_label)
    for case in val:
        look(case, True)
    found.raise_any(f"{source.data.name} in {source.root}")


def informative_slice(reference: np.ndarray) -> int:
    """The slice of (S, H, W) with the most foreground, the middle one where there is none."""
    counts = (np.asarray(reference) % 255 > 0).reshape(len(reference), -1).sum(1)
    return int(counts.argmax()) if counts.any() else len(reference) // 2
