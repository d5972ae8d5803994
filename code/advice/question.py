"""What is asked: the data set, its labelled and unlabelled images, and where the answer lies. No test part is opened."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from advice.folds import FEWEST, groups_in
from dataloaders import catalog
from dataloaders.description import Case, DataSet, Source
from dataloaders.errors import UserError
from dataloaders.splits.given import training_part
from dataloaders.splits.split import label_budget
from preparation.copies import copies, print_of
from storage.folders import REPOSITORY, budget_word, data_name, results_folder


@dataclass(frozen=True)
class Question:
    """A data set as the adviser sees it."""

    source: Source
    root: Path
    protocol: str
    budget: str
    """--labeled_num: how many of the images with a mask count as labelled."""
    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    name: str
    """Of the experiment, below model/ and results/."""
    left_out: int = 0
    """Images without a label whose patient or piece has a labelled one: no run learns from these (`label_budget`)."""

    @property
    def data(self) -> DataSet:
        return self.source.data

    @property
    def folder(self) -> Path:
        """Where plan and pages lie."""
        return results_folder() / self.name

    @property
    def groups(self) -> int:
        """Labelled images, or patients and pieces where several images show one."""
        return groups_in(self.labeled)

    @property
    def things(self) -> str:
        """What is counted: images, volumes, patients."""
        if self.data.unit == "patient":
            return "patients"
        return ("volumes" if self.data.dimensions == 3 else "images") if self.groups == len(self.labeled) else "groups"

    @property
    def left_without_labels(self) -> str:
        """A sentence on the images that are left out."""
        return (f"all {self.left_out} unlabelled images are of a patient, piece or group that has labelled ones, and are not used beside "
                "these. Add images of others, or look whether groups.csv is right.")

    @property
    def common(self) -> list[str]:
        """Options of every script that say which data these are."""
        return ["--dataset", self.data.name, "--root_path", str(self.root.resolve()), "--protocol", self.protocol]


def asked(dataset: str | None, root_path: Path | None, protocol: str | None, budget: str | None, exp: str | None,
          options: Mapping[str, Any] | None = None) -> Question:
    """The question about a data set. Raises `UserError` where the data set cannot be read, and for a protocol that it has not."""
    data, root, _ = catalog.resolve(dataset, root_path, REPOSITORY)
    source = catalog.open_source(data, root, options)
    name = protocol or data.protocols[0]
    if name not in data.protocols:
        raise UserError(f"--protocol {name}: {data.name} has {' and '.join(data.protocols)}.")
    pool, grouped = training_part(source, name)
    number = budget or ("all" if data.own else str(data.defaults.get("labeled_num", "7")))
    if any(case.label is not None for case in pool):
        labeled, unlabeled, left_out = label_budget(pool, grouped, source.data.unit, number, "first", 0)
    else:
        labeled, unlabeled, left_out = [], list(pool), []
    place = exp or f"advice/{data_name(data, root)}/{budget_word(number)}_labeled"
    if Path(place).is_absolute() or ".." in Path(place).parts:
        raise UserError(f"--exp {place}: a name such as advice/mine is needed; it may not leave the folder model/.")
    return Question(source, root, name, number, tuple(labeled), tuple(unlabeled), place, len(left_out))


def near_copies(question: Question) -> list[str]:
    """Sentences on labelled pictures of one's own that show the same and are of different groups: these are held out by themselves."""
    if not question.data.own or question.data.dimensions == 3:
        return []
    prints = [print_of(question.source.image(case), None) for case in question.labeled]
    return [f"Among the labelled images are some that are {said} Where one is held out and the other learned from, scores are too high: "
            "write such images into groups.csv (image,group)." for said in copies(question.labeled, prints)]


def check_answerable(question: Question) -> None:
    """Raises `UserError` where nothing can be asked of so few labels, or without unlabelled images."""
    root, things = question.root, question.things
    if question.groups < FEWEST:
        raise UserError(f"{root}: {question.groups} labelled {things}; with fewer than {FEWEST} nothing can be held out, so no method "
                        f"can be judged. Which to label next is told by: python code/advise.py --root_path {quote(str(root))} --next 10")
    if not question.unlabeled and question.left_out:
        raise UserError(f"{root}: no image is left to learn from without labels: {question.left_without_labels}")
    if not question.unlabeled:
        more = " Images without a mask belong beside the others." if question.data.own else ""
        raise UserError(f"{root}: all {len(question.labeled)} images are labelled, so there is no unlabelled data to ask about.{more} To "
                        f"see what fewer labels would do, add --labeled_num {max(FEWEST, question.groups // 2)}.")
