"""What is told of objects beside the scores of pixels: of every image, and of a set with all of its objects together."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dataloaders.description import Case, DataSet, Objects, Source
from dataloaders.errors import UserError
from inference.scoring import Row
from metrics.instances import instances_of
from metrics.objects import ObjectSums, object_scores, object_sums, total


def objects_of(data: DataSet, grow: int | None) -> Objects | None:
    """How the objects of a data set are found in predictions, which grow by another radius than its own where one is given; None where it
    has none. Raises `UserError`."""
    how = data.evaluation.objects
    if grow is None:
        return how
    if how is None or grow < 0:
        raise UserError(f"--grow {grow}: " + (f"{data.name} has no objects that are told apart. Leave it out." if how is None else
                                              "a radius in pixels is needed, 0 or more."))
    return replace(how, grow=grow)


def objects_in(labels: np.ndarray, how: Objects, source: Source, case: Case) -> dict[int, ObjectSums]:
    """Of a label map (H, W) of native size, by label."""
    return {label: object_sums(instances_of(labels == label, how.least, how.grow), source.instances(case, label)) for label in how.classes}


def with_scores(scores: Row, objects: Mapping[int, ObjectSums], classes: Sequence[str], data: DataSet) -> Row:
    """A case's scores with those of its objects beside; None in classes without objects, nothing where there are none at all."""
    if not objects:
        return scores
    none = object_scores(ObjectSums())
    found = {data.classes[label]: object_scores(sums) for label, sums in objects.items()}
    return [{**score, **found.get(name, none)} for name, score in zip(classes, scores)]


def of_set(images: Sequence[Mapping[int, ObjectSums]], cases: Sequence[Case], how: Objects,
           data: DataSet) -> dict[str, dict[str, dict[str, Any]]]:
    """The figures of all objects of a set together, under "data_set" and each part that stands apart, by class name."""
    figures = {}
    for part in ("data_set", *how.apart):
        mine = [found for found, case in zip(images, cases) if part == "data_set" or case.name.startswith(part)]
        if mine:
            figures[part] = {data.classes[label]: _figures(total([found[label] for found in mine])) for label in how.classes}
    return figures


def _figures(sums: ObjectSums) -> dict[str, Any]:
    return {**object_scores(sums), "reference": int(sums.reference), "predicted": int(sums.predicted)}
