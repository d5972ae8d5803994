"""Scores of objects in a test: beside those of pixels, in the result file and on the screen, for all objects and for parts of the set."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dataloaders.catalog import DATA_SETS
from dataloaders.description import Case, Objects
from dataloaders.errors import UserError
from evaluation.objects import objects_in, objects_of, of_set, with_scores
from evaluation.results import object_lines
from metrics import summarize

SCRATCHED = DATA_SETS["PhantomDefect"]


class Defects:
    """A source of two images that have been seen: a map of class ids is its own reference."""

    def __init__(self, ids: dict[str, np.ndarray]):
        self.ids = ids
        self.data = replace(SCRATCHED, evaluation=replace(SCRATCHED.evaluation, objects=Objects((1, 3), least=4, apart=("testA", "testC"))))

    def instances(self, case: Case, label: int) -> np.ndarray:
        return np.where(self.ids[case.name] == label, 5, 0)


def square(label: int, side: int, shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    ids = np.zeros(shape, np.uint8)
    ids[4 : 4 + side, 4 : 4 + side] = label
    return ids


@pytest.fixture
def tested():
    """(cases, source, what is found): one defect is found whole, one missed, and what is too small is none."""
    names = ("testA_1", "testB_1")
    cases = [Case(name, None, None, name, "", "test") for name in names]  # type: ignore[arg-type]
    source = Defects({"testA_1": square(1, 8), "testB_1": square(3, 6)})
    predictions = [square(1, 8), square(3, 1) + square(1, 1)[::-1]]
    how = source.data.evaluation.objects
    return cases, source, [objects_in(labels, how, source, case) for labels, case in zip(predictions, cases)]  # type: ignore[arg-type]


def test_classes_are_scored_apart_and_small_regions_are_none(tested):
    cases, source, found = tested
    assert [(sums[1].predicted, sums[1].reference, sums[3].predicted, sums[3].reference) for sums in found] == [(1, 1, 0, 0), (0, 0, 0, 1)]
    figures = of_set(found, cases, source.data.evaluation.objects, source.data)
    assert set(figures) == {"data_set", "testA"}, "a part without an image has no figures"
    assert figures["data_set"]["scratch"]["object_f1"] == 1 and figures["data_set"]["inclusion"]["object_f1"] == 0
    assert figures["data_set"]["inclusion"]["object_hausdorff"] == 50 and figures["data_set"]["inclusion"]["reference"] == 1
    assert figures["testA"]["inclusion"]["pq"] is None


def test_they_stand_in_the_rows_of_the_images_and_on_the_screen(tested):
    cases, source, found = tested
    classes = source.data.classes[1:]
    plain = [[{"dice": 0.5, "hd95_vox": 1.0, "empty": ""} for _ in classes] for _ in cases]
    rows = [with_scores(scores, sums, classes, source.data) for scores, sums in zip(plain, found)]
    assert with_scores(plain[0], {}, classes, source.data) is plain[0]
    assert rows[0][1]["object_f1"] is None and rows[0][0]["object_f1"] == 1, "spots are told apart by nobody here"
    summary = summarize(rows, classes)
    assert summary["scratch"]["aji"] == 1 and summary["inclusion"]["aji"] == 0 and summary["mean"]["aji"] == 0.5
    lines = object_lines(summary, of_set(found, cases, source.data.evaluation.objects, source.data)).splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("  scratch, mean of images: object F1 1.0000, Dice 1.0000, Hausdorff 0.00 px;  AJI 1.0000")
    assert lines[1].endswith("; 1 objects, 1 predicted") and lines[2].startswith("  scratch, testA: ") and "PQ -" in lines[5]


def test_the_radius_may_be_another_than_the_published_one():
    glands = DATA_SETS["GlaS"]
    assert objects_of(glands, None) == glands.evaluation.objects and objects_of(glands, 1).grow == 1
    assert objects_of(glands, 1).least == glands.evaluation.objects.least and objects_of(DATA_SETS["ACDC"], None) is None
    for data, grow, said in ((glands, -1, "0 or more"), (DATA_SETS["ACDC"], 1, "ACDC has no objects")):
        with pytest.raises(UserError, match=said):
            objects_of(data, grow)
