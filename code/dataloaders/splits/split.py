"""The cases of a run: which are trained, labelled, validated and tested.

Everything here is computed from lists of `Case` alone. What the parts are is said by the protocols of the data set's reader
(`Source.protocols`), orders are drawn by `draws.py`: they depend on names and seeds, never on the order of a listing.
"""
from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from dataloaders.description import Case, Parts, Source, Unit
from dataloaders.errors import Problems, UserError
from dataloaders.splits import cross_val_dev
from dataloaders.splits.draws import budget, by_group, groups_of, in_order, stratified_order
from dataloaders.splits.folds import fold_parts
from dataloaders.splits.given import given_parts

Choice = Literal["first", "random"]


@dataclass(frozen=True)
class SplitRequest:
    """What was asked of a split. The options of the same names say what each means (`command_line.options.Options`)."""

    protocol: str | None = None
    """None: the data set's first."""
    fold: int | None = None
    """From 0, in place of the protocol's parts."""
    folds: int = 5
    split_seed: int = 0
    labeled_num: str = "all"
    labeled_choice: Choice = "first"
    labeled_seed: int = 0
    split_file: str | None = None
    """In place of the protocol's parts: a file that names the cases (`splits.given`)."""
    hold_out: bool = False
    """Where a protocol has no validation part: whether 15 % of the training images, by group, are held out for a schedule that follows
    a score."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SplitRequest:
        """The request of a run, from its resolved options by name (`vars(options)`, or those of its config.json)."""
        asked = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        if asked.get("split_file") is not None:
            asked["split_file"] = str(asked["split_file"])
        return cls(**asked, hold_out=options["schedule"] == "plateau")


@dataclass(frozen=True)
class Split:
    """The cases of one training run; test cases come from `test_cases`."""

    name: str
    """official, clean, ..., or fold<k>of<n>; drawn where somebody's own files name no test part, drawn_val where they name one alone."""
    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    val: tuple[Case, ...]
    remarks: tuple[str, ...] = ()
    """Sentences for the screen and every result."""
    left_out: tuple[Case, ...] = ()
    """Copies of labelled images, kept out of the unlabelled pool."""
    selection: Literal["validation", "last", "test"] = "validation"
    """What is tested: the best on validation cases, the last iterate where the split has none of its own, or the best on the test cases."""
    unit: Unit = "image"
    """What the label budget counts."""

    @property
    def held_out(self) -> bool:
        """Whether the validation cases are training cases of the protocol, held out for the schedule."""
        return self.selection == "last" and bool(self.val)


def parts_of(source: Source, request: SplitRequest, with_test: bool) -> Parts:
    """The parts of a run before labels are dealt out; the test part is not opened unless it is wanted. A fold pools all official parts.

    Raises `UserError` for a protocol or fold that is not there, and for parts that share a case or a group.
    """
    data, name = source.data, request.protocol or source.data.protocols[0]
    if name not in data.protocols:
        raise UserError(f"--protocol {name}: {data.name} has {' and '.join(data.protocols)}.")
    if request.split_file is not None:
        if request.fold is not None:
            raise UserError("--fold and --split_file both say which cases are tested: give one of them.")
        parts = given_parts(source, Path(request.split_file), name, request.split_seed, with_test)
    elif request.fold is not None:
        parts = data.reader.folds.get(name, fold_parts)(source.pool(), request.fold, request.folds, request.split_seed)
    elif name not in data.reader.protocols:
        raise UserError(f"{data.name} is described with the protocol {name}, which its reader {data.reader.__name__} "
                        f"({inspect.getfile(data.reader)}) cannot make: `protocols` there has {' and '.join(data.reader.protocols)}. Add "
                        f"{name!r} and a function (source, split_seed, with_test) -> Parts, or take it out of the description.")
    else:
        parts = data.reader.protocols[name](source, request.split_seed, with_test)
    check_disjoint(parts, source)
    return parts


def check_disjoint(parts: Parts, source: Source) -> None:
    """Raises `UserError` where a case stands in two parts, or twice in one; and, where groups are whole, a group."""
    members = {"training": parts.train, "validation": [] if parts.val_is_test else parts.val, "test": parts.test or []}
    problems, names, groups = Problems(), dict[str, str](), dict[str, tuple[str, str]]()
    for part, cases in members.items():
        for case in cases:
            if case.name in names:
                where = f"twice in {part}" if names[case.name] == part else f"in {names[case.name]} and in {part}"
                problems.add(f"{case.name} stands {where}; a case belongs to one part, once. Mend the lists or folders.")
                continue
            names[case.name] = part
            other, first = groups.setdefault(case.group, (part, case.name))
            if parts.grouped and other != part:
                problems.add(f"{case.group}: {first} stands in {other} and {case.name} in {part}; what shows one patient or piece belongs "
                             "to one part. Mend the lists or folders.")
    problems.raise_any(f"{source.data.name} in {source.root}, {parts.name} split")


def label_budget(train: list[Case], grouped: bool, unit: str, asked: str, choice: Choice,
                 seed: int) -> tuple[list[Case], list[Case], list[Case]]:
    """(labelled, unlabelled, left out) of the training cases: the first of them, or those of a stratified draw by `seed`.

    A patient is labelled whole. A budget of images takes whole groups of copies and cuts the last one; what is cut off is left out.
    """
    order = train
    if choice == "random":
        order = in_order(train, stratified_order(train, seed))
    elif choice != "first":
        raise UserError(f"--labeled_choice {choice}: write first or random.")
    candidates = [case for case in order if case.label is not None]
    if not candidates:
        raise UserError("No training case has a label; at least one is needed.")
    if unit == "image":
        labeled = candidates[: budget(asked, len(candidates), unit)]
    else:
        groups = groups_of(candidates)
        chosen = set(list(groups)[: budget(asked, len(groups), unit)])
        labeled = [case for case in candidates if case.group in chosen]
    names, groups_labeled = {case.name for case in labeled}, {case.group for case in labeled}
    others = [case for case in train if case.name not in names]
    copies = [case for case in others if grouped and case.group in groups_labeled]
    left_out = {case.name for case in copies}
    return labeled, [case for case in others if case.name not in left_out], copies


def published_budget(train: list[Case], parts: Parts, asked: str) -> tuple[list[Case], list[Case]]:
    """(labelled, unlabelled) training cases by the protocol's published list of `asked` names, a number or a percentage of those with a
    label; raises `UserError` where it has none such, and where images or labels of the list are not there."""
    count = None
    if asked.isdecimal():
        count = int(asked)
    elif asked.endswith("%"):
        count = budget(asked, sum(case.label is not None for case in train), "image")
    chosen = set(parts.budgets[count]) if count is not None and count in parts.budgets else None
    counts = ", ".join(map(str, sorted(parts.budgets)))
    if chosen is None:
        raise UserError(f"--labeled_num {asked}: the protocol {parts.name} has published lists of {counts} labelled images; choose one of "
                        "these numbers or all, or draw another number: --labeled_choice random.")
    labeled = [case for case in train if case.name in chosen]
    without = sorted(chosen - {case.name for case in labeled if case.label is not None})
    if without:
        raise UserError(f"--labeled_num {asked}: {len(without)} of these labelled images of the protocol {parts.name} have no mask here, "
                        f"for example {without[0]}. Where to get it, and for which budgets it is needed: data/README.md.")
    return labeled, [case for case in train if case.name not in chosen]


def make_split(source: Source, request: SplitRequest) -> Split:
    """The labelled, unlabelled and validation cases of a run; opens no test list or folder of an official split.

    Raises `UserError` for an unknown protocol, fold or budget, and for parts that overlap or would be empty.
    """
    parts = parts_of(source, request, with_test=False)
    train, val, remarks = parts.train, parts.val, list(parts.remarks)
    selection: Literal["validation", "last", "test"] = "test" if parts.val_is_test else "validation" if val else "last"
    if not val and request.hold_out:
        val, rest = by_group(train, 0.15, request.split_seed)
        kept = {case.name for case in rest}
        train = [case for case in train if case.name in kept]
        remarks.append(f"This split has no validation part: {len(val)} training images (15 %, by group) are held out for the schedule, "
                       "and the last iterate is tested.")
    if parts.every_nth:
        labeled, unlabeled, said = cross_val_dev.every_nth(train, request.labeled_num, request.labeled_choice)
        return Split(parts.name, tuple(labeled), tuple(unlabeled), tuple(val), (*remarks, said), (), selection, "volume")
    if parts.budgets and request.labeled_choice == "first" and request.labeled_num != "all":
        labeled, unlabeled = published_budget(train, parts, request.labeled_num)
        return Split(parts.name, tuple(labeled), tuple(unlabeled), tuple(val), tuple(remarks), (), selection, source.data.unit)
    labeled, unlabeled, left_out = label_budget(
        train, parts.grouped, source.data.unit, request.labeled_num, request.labeled_choice, request.labeled_seed)
    if left_out:
        remarks.append(f"{len(left_out)} images that show a labelled piece again are left out of the unlabelled ones.")
    return Split(parts.name, tuple(labeled), tuple(unlabeled), tuple(val), tuple(remarks), tuple(left_out), selection, source.data.unit)


def test_cases(source: Source, request: SplitRequest) -> list[Case]:
    """The test cases of the split that `make_split` makes of the same request, sorted by name."""
    parts = parts_of(source, request, with_test=True)
    return sorted(parts.test or [], key=lambda case: case.name)


def check_unseen(cases: list[Case], recorded: Mapping[str, Any]) -> None:
    """Raises `UserError` where test cases were trained on or validated with, as the split in a run's config.json has it.

    Its lists or folders may have changed since, or an older version may have read them otherwise.
    """
    chosen = [] if recorded.get("selection") == "test" else recorded["val"]
    for what, names in (("labelled in training", set(recorded["labeled"])), ("for validation", set(chosen))):
        seen = [case.name for case in cases if case.name in names]
        if seen:
            raise UserError(f"{len(seen)} of the {len(cases)} test cases were {what} when this run was made (for example {seen[0]}); the "
                            "data set names its parts otherwise now. Train anew, or bring the lists and folders of then back.")
