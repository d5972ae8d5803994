"""Label budgets, groups, and orders drawn from them; pure functions on lists of `Case`.

A draw depends on names and its seed, never on the order of a listing.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil

import numpy as np

from dataloaders.description import Case
from dataloaders.errors import UserError


def budget(asked: str, available: int, unit: str) -> int:
    """How many of `available` patients or images a label budget (`7`, `10%`, `all`) means; percentages are rounded down.

    Raises `UserError` for anything else, for zero, and for more than there are.
    """
    text = str(asked).strip()
    units = f"{unit}s" if available != 1 else unit
    if text == "all":
        return available
    if re.fullmatch(r"[0-9]+", text):
        count = int(text)
        if count > available:
            raise UserError(f"--labeled_num {text}: {available} {units} available, asked {count}; "
                            f"write a number up to {available}, a percentage such as 10%, or all.")
    elif re.fullmatch(r"[0-9]+(\.[0-9]+)?\s*%", text):
        share = Fraction(text[:-1].strip()) / 100
        if share > 1:
            raise UserError(f"--labeled_num {text}: more than there is; write a percentage up to 100%.")
        count = int(share * available)
    elif re.fullmatch(r"1/[0-9]+", text):
        raise UserError(f"--labeled_num {text}: every N-th volume is a budget of --protocol cross_val_dev alone (ACDC, with --fold); "
                        f"write a number of {unit}s such as 7, a percentage such as 10%, or all.")
    elif re.fullmatch(r"0?\.[0-9]+", text):
        raise UserError(f"--labeled_num {text}: is this a share? write {float(Fraction(text) * 100):g}% (or a number of {unit}s, or all).")
    else:
        raise UserError(f"--labeled_num {text}: not a label budget; write a number of {unit}s such as 7, a percentage such as 10%, or all.")
    if count == 0:
        raise UserError(f"--labeled_num {text}: that is no {unit} of the {available} available; write at least 1.")
    return count


def check_fold(fold: int, folds: int) -> None:
    """Raises `UserError` where there is no such fold."""
    if folds < 2:
        raise UserError(f"--folds {folds}: a cross-validation has at least 2 folds.")
    if not 0 <= fold < folds:
        raise UserError(f"--fold {fold}: with --folds {folds} a fold is a number from 0 to {folds - 1}.")


def groups_of(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Cases by group, both in the order given."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    return groups


def stratified_order(cases: Iterable[Case], seed: int) -> list[str]:
    """All groups in a random order whose every beginning holds each stratum by about its share.

    Inside a stratum of n groups the r-th of a shuffled order has the key (r + u) / n, with one u in [0, 1) a stratum: the budget of
    3 is a part of the budget of 7, and strata that a small budget cannot all hold have equal chances by size.
    """
    generator = np.random.default_rng(seed)
    keys = []
    for _, names in strata_of(cases).items():
        shuffled = [names[i] for i in generator.permutation(len(names))]
        offset = generator.random()
        keys += [((rank + offset) / len(names), name) for rank, name in enumerate(shuffled)]
    return [name for _, name in sorted(keys)]


def strata_of(cases: Iterable[Case]) -> dict[str, list[str]]:
    """Sorted groups by stratum, strata sorted; a group belongs to the stratum of its first case by name."""
    stratum: dict[str, tuple[str, str]] = {}
    for case in cases:
        mark = (case.name, case.stratum)
        stratum[case.group] = min(stratum.get(case.group, mark), mark)
    strata: dict[str, list[str]] = {}
    for group in sorted(stratum):
        strata.setdefault(stratum[group][1], []).append(group)
    return dict(sorted(strata.items()))


def in_order(cases: Iterable[Case], groups: Sequence[str]) -> list[Case]:
    """The cases of these groups: groups in the order given, the cases of a group by name."""
    members = groups_of(sorted(cases, key=lambda case: case.name))
    return [case for group in groups for case in members[group]]


def published_split(names: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(kept, held out) of the names: ceil(share * n) are held out, as scikit-learn's train_test_split does it.

    That is NumPy's `RandomState(seed).permutation(n)`: its first entries are held out, the following ones are kept, in that order.
    """
    held_out = ceil(Fraction(str(share)) * len(names))
    permuted = np.random.RandomState(seed).permutation(len(names))
    return [names[i] for i in permuted[held_out:]], [names[i] for i in permuted[:held_out]]


def permuted(cases: list[Case], share: float, seed: int) -> tuple[list[Case], list[Case]]:
    """`published_split` of cases, sorted by name first."""
    by_name = {case.name: case for case in cases}
    kept, held_out = published_split(sorted(by_name), share, seed)
    return [by_name[name] for name in kept], [by_name[name] for name in held_out]


def last_first(cases: list[Case], seed: int) -> list[Case]:
    """An order of which the first N are what train_test_split labels, whatever N: it holds the beginning of a permutation out."""
    return [cases[i] for i in np.random.RandomState(seed).permutation(len(cases))[::-1]]


def by_group(cases: list[Case], share: float, seed: int) -> tuple[list[Case], list[Case]]:
    """(drawn, rest): whole groups, stratified, until they hold `share` of the cases (at least one group, never all)."""
    groups, order = groups_of(cases), stratified_order(cases, seed)
    wanted, taken, count = ceil(Fraction(str(share)) * len(cases)), 0, 0
    while taken < len(order) - 1 and (count < wanted or not taken):
        count += len(groups[order[taken]])
        taken += 1
    return in_order(cases, order[:taken]), in_order(cases, order[taken:])
