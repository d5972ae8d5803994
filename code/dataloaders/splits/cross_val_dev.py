"""--protocol cross_val_dev: the folds of the peer's branch of that name (github.com/HiLab-git/SSL4MIS), faults included.

It is here so that figures made with that branch can be made again, and is marked for what it is in every result: the checkpoint is
chosen on the fold that is then tested, and in ACDC each fold tests a diagnosis that training never sees. Two of its faults are not
made again: without folds it draws volumes, not patients, and its tester takes the folds from an unsorted listing.
"""
from __future__ import annotations

import re

from dataloaders.description import Case, Parts, Source
from dataloaders.errors import UserError
from dataloaders.splits.draws import check_fold, groups_of

NAME = "--protocol cross_val_dev"


def volume_blocks(cases: list[Case], fold: int, folds: int, seed: int) -> Parts:
    """Fold `fold` is a block of the sorted names of volumes, tested and validated on; all other volumes, sorted, are for training.

    Raises `UserError` where a block would split a patient (of ACDC's 200 volumes: any number of folds but 2, 4, 5, 10, 20, 25, 50, 100).
    """
    check_fold(fold, folds)
    if seed:
        raise UserError(f"--split_seed {seed}: nothing is drawn under {NAME}, whose folds are blocks of the sorted names. Leave it out.")
    ordered = sorted((case for case in cases if case.label is not None), key=lambda case: case.name)
    if len(ordered) < 2 * folds:
        raise UserError(f"--folds {folds}: only {len(ordered)} volumes have labels; write fewer folds.")
    size, larger = divmod(len(ordered), folds)
    first = fold * size + min(fold, larger)
    test = ordered[first : first + size + (fold < larger)]
    tested, patients = {case.name for case in test}, groups_of(test)
    train = [case for case in ordered if case.name not in tested]
    if split := sorted(patients.keys() & groups_of(train).keys()):
        raise UserError(f"--folds {folds}: under {NAME} the frames of {split[0]} would stand in two parts; write --folds 5, as published.")
    unseen = sorted({case.stratum for case in test} - {case.stratum for case in train})
    own = f" (this one: {' and '.join(unseen)})" if unseen else ""
    return Parts(f"fold{fold}of{folds}_cross_val_dev", train, test, test, (
        "Selected on test: under cross_val_dev the best checkpoint is chosen on the fold that is then tested; figures are optimistic.",
        f"One diagnosis a fold: under cross_val_dev a fold is a block of the sorted names of volumes (here {len(test)} of {len(patients)} "
        f"patients), with 5 folds of ACDC one diagnosis, which training never sees{own}.",
    ), grouped=False, val_is_test=True, every_nth=True)


def every_nth(train: list[Case], asked: str, choice: str) -> tuple[list[Case], list[Case], str]:
    """(labelled, unlabelled, a sentence) for a budget 1/N: every N-th volume of the sorted names, from the first; `all` is 1/1."""
    found = re.fullmatch(r"1/([1-9][0-9]*)", "1/1" if asked.strip() == "all" else asked.strip())
    if found is None:
        raise UserError(f"--labeled_num {asked}: {NAME} counts volumes; write 1/8 for each eighth (published: 1/1, 1/2, 1/4, 1/8, 1/16).")
    if choice != "first":
        raise UserError(f"--labeled_choice {choice}: nothing is drawn under {NAME}; 1/N labels every N-th volume. Leave it out.")
    labeled = train[:: int(found[1])]
    names, groups = {case.name for case in labeled}, groups_of(labeled)
    unlabeled = [case for case in train if case.name not in names]
    halves = len(groups.keys() & groups_of(unlabeled).keys())
    return labeled, unlabeled, (
        f"{len(labeled)} of {len(train)} volumes are labelled, counted by volumes and not by patients as under cross_val_dev"
        + (f"; {halves} patients have another volume among the unlabelled ones." if halves else "."))


def without_fold(source: Source, split_seed: int, with_test: bool) -> Parts:
    """Refuses what the peer does without folds. Raises `UserError`."""
    raise UserError(f"{NAME} needs --fold (0 to 4). Without folds the peer draws volumes and not patients, so that of the 36 patients with "
                    "a test volume in ACDC 32 have their other frame in training or validation; that is not made again here. "
                    "Without --fold, use --protocol official.")
