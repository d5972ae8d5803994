"""The labelled images divided: folds, repeated anew, and smaller label budgets inside them. Files for `--split_file`."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataloaders.description import Case
from dataloaders.splits.draws import groups_of, in_order, stratified_order
from dataloaders.splits.given import written

FEWEST = 4
"""Labelled images, or groups, below which nothing is divided: a fold would train on two."""
SHARES = (0.25, 0.5)
"""Of the labels of a fold: the smaller budgets of the curve."""


def folds_for(count: int) -> int:
    """Into how many parts so many labelled groups are divided: more where more are left to learn from, since each costs a training."""
    return 3 if count < 10 else 4 if count < 25 else 5


def budgets_for(count: int, folds: int) -> list[int]:
    """The smaller label budgets (groups) beside that of a whole fold, each at least 1 and below the next."""
    most = count - -(-count // folds)
    return sorted({max(1, round(share * most)) for share in SHARES} - {most})


@dataclass(frozen=True)
class Piece:
    """What one run learns from and what it is scored on."""

    round: int
    """Which division of the images, from 0."""
    fold: int
    of: int
    labeled: tuple[str, ...]
    test: tuple[str, ...]
    budget: int | None = None
    """Labelled groups where they are fewer than the fold has."""

    @property
    def name(self) -> str:
        """round0_fold1of3, round0_fold1of3_2labels"""
        return f"round{self.round}_fold{self.fold}of{self.of}" + ("" if self.budget is None else f"_{self.budget}labels")

    def file(self, folder: Path) -> Path:
        """Writes the split to a file in the folder; gives its path."""
        return written(folder / f"{self.name}.json", self.name, self.labeled, self.test)


def pieces(labeled: Sequence[Case], of: int, round_: int, budget: int | None = None) -> list[Piece]:
    """The folds of one division: groups in a stratified order, dealt out in turn; of a budget the first groups of the others.

    The order is drawn by the round alone, so budgets are nested, and the same folds come of the same images.
    """
    order = stratified_order(labeled, round_)

    def named(groups: Sequence[str]) -> tuple[str, ...]:
        wanted = set(groups)
        return tuple(case.name for case in in_order([case for case in labeled if case.group in wanted], groups))

    found = []
    for fold in range(of):
        test = order[fold::of]
        rest = [group for group in order if group not in set(test)]
        found.append(Piece(round_, fold, of, named(rest if budget is None else rest[:budget]), named(test), budget))
    return found


def groups_in(cases: Sequence[Case]) -> int:
    return len(groups_of(cases))
