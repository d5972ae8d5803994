"""Result files read and checked: what a report counts, and what it leaves out and why."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataloaders.catalog import DATA_SETS
from dataloaders.listing import walk
from evaluation.results import SCHEMA
from storage.sealed import parsed

METRICS = ("dice", "jaccard", "hd95_vox", "asd_vox")
"""Every result has them."""
FURTHER = ("hd95_mm", "asd_mm", "object_f1", "object_dice", "object_hausdorff", "aji", "pq")
"""Some have them: where the spacing is known, and where objects are told apart."""

DRAWN = ("seed", "labeled_choice", "labeled_seed", "fold", "folds", "split_seed", "split_file", "labeled_num", "protocol")
"""Options by which runs of one row of a table differ, or tables; all others make a row of their own."""


@dataclass(frozen=True)
class Record:
    """One predictor of one tested run."""

    path: Path
    """The result file."""
    run: Mapping[str, Any]
    """As in the file: method, data_set, options, split, versions, machine, command, training, test, ..."""
    summary: Mapping[str, Mapping[str, Any]]
    """By class name and "mean"."""
    cases: Sequence[Mapping[str, Any]]
    """name, class, metrics, empty ("", missed, false, both); group (patient), which the first files lack."""
    quoted: bool
    """The method's own number; False for the further predictors of its run."""

    @property
    def options(self) -> Mapping[str, Any]:
        return self.run["options"]

    @property
    def method(self) -> str:
        return self.run["method"]

    @property
    def data_set(self) -> str:
        return self.run["data_set"]

    @property
    def data_name(self) -> str:
        """What tables are of: of own images each folder is a data set of its own (folder/plates); results from before it was noted have
        the kind alone."""
        data = DATA_SETS.get(self.data_set)
        return f"{self.data_set}/{self.run['folder']}" if data is not None and data.own and self.run.get("folder") else self.data_set

    @property
    def labeled_num(self) -> str:
        """The label budget as typed: 7, 10%, all."""
        return str(self.options["labeled_num"])

    @property
    def seed(self) -> int:
        return self.options["seed"]

    @property
    def fold(self) -> int | None:
        return self.options["fold"]

    @property
    def draw(self) -> int | None:
        """Seed of the random draw of the labelled cases; None where they are the first of the list."""
        return self.options["labeled_seed"] if self.options["labeled_choice"] == "random" else None

    @property
    def protocol(self) -> str:
        """What tables keep apart: official, clean, drawn, ..., or `5 folds` (with `split seed 1` where it is not 0), and how volumes are
        annotated."""
        of = self.options
        name = self.run["split"].get("name", of["protocol"]) if of["fold"] is None else f"{of['folds']} folds"
        if of["fold"] is not None and of["protocol"] not in ("official", "clean"):
            name += f" ({of['protocol']})"
        if of.get("annotation", "full") != "full":
            name += f", {of['annotation']} annotation"
        return name + (f", split seed {of['split_seed']}" if of["split_seed"] else "")

    @property
    def by_matrix(self) -> bool:
        """Whether the summary is that of one confusion matrix over all cases: its mean Jaccard is the mIoU."""
        return self.summary["mean"].get("miou") is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """Foreground classes."""
        return tuple(name for name in self.summary if name != "mean")


def ways_of(test: Mapping[str, Any]) -> list[str]:
    """The options of the test scripts, but for the stride, by which cases were predicted otherwise than without any."""
    words = [f"--{name}" for name in ("gaussian", "mirror", "nms") if test.get(name)]
    if test.get("grow") is not None:
        words += ["--grow", str(test["grow"])]
    if test.get("window"):
        words += ["--window", *map(str, test["window"]), "--border", test["border"]]
    return words


@dataclass(frozen=True)
class Skipped:
    """A file among the results that is none, and why."""

    path: Path
    reason: str


def read(places: Sequence[Path]) -> tuple[list[Record], list[Skipped]]:
    """All result files under the folders (or the files themselves), sorted by path; what cannot be used stands in the second list.

    Files that are no JSON are not looked at, nor are hidden ones (a copy in .ipynb_checkpoints might be counted in place of its original);
    splits.json and what lies in a folder `report` are not results.
    """
    files: set[Path] = set()
    for place in places:
        # What reproduce.py made says something of a row, and is none itself.
        files |= {place} if place.is_file() else {
            one for one in walk(place) if one.suffix == ".json" and one.relative_to(place).parts[0] != "reproduce"}
    records, skipped = [], []
    for path in sorted(files):
        if path.name == "splits.json" or "report" in path.parent.parts[-2:]:
            continue
        found = read_one(path)
        if isinstance(found, Record):
            records.append(found)
        else:
            skipped.append(found)
    return records, skipped


def read_one(path: Path) -> Record | Skipped:
    """One result file, checked field by field."""
    try:
        value = parsed(path.read_bytes())
    except OSError as error:
        return Skipped(path, f"cannot be read ({error.strerror})")
    except ValueError as error:
        return Skipped(path, str(error))
    try:
        reason = _wrong(value)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"not a result of this program ({type(error).__name__}: {error})"
    if reason:
        return Skipped(path, reason)
    run = value["run"]
    return Record(path, run, value["summary"], value["cases"], not path.stem.endswith(f"_{run['predictor']}"))


WORD, WHOLE, MAPPING, LIST = (str,), (int,), (dict,), (list,)
RUN = {"method": WORD, "data_set": WORD, "dimensions": WHOLE, "split": MAPPING, "predictor": WORD, "selection": WORD, "training": MAPPING,
       "test": MAPPING, "command": WORD, "versions": MAPPING, "machine": MAPPING, "remarks": LIST, "code": WORD}
OPTIONS = {"model": WORD, "labeled_num": (str, int), "labeled_choice": WORD, "protocol": WORD, "fold": (int, type(None)),
           "folds": WHOLE, "seed": WHOLE, "labeled_seed": WHOLE, "split_seed": WHOLE}
SUMMED = (*METRICS, *FURTHER, "missed", "both_empty", "n")
"""Numbers of a summary, or None."""


def _wrong(value: Any) -> str:
    """What keeps a file from being counted; "" for nothing."""
    if "schema" not in value:
        return "not a result of this program (no schema)"
    if value["schema"] != SCHEMA:
        return f"schema {value['schema']} (this program writes {SCHEMA})"
    run, summary = value["run"], value["summary"]
    for place, found, expected in (("run", run, RUN), ("run's options", run["options"], OPTIONS)):
        for name, kinds in expected.items():
            if name not in found:
                return f"{place}: there is no {name}"
            if not isinstance(found[name], kinds):
                return f"{place}: {name} is {found[name]!r}"
    if not all(isinstance(word, str) for word in (*run["remarks"], *run["split"]["labeled"])):
        return "run: remarks and labelled cases must be words"
    classes = [name for name in summary if name != "mean"]
    if not classes or "mean" not in summary:
        return "summary has no classes"
    spent = ("training", run["training"], ("seconds", "peak_memory"))
    for place, numbers, names in (*((of, summary[of], SUMMED) for of in summary), spent):
        for name in names:
            if not _number(numbers[name] if name in METRICS else numbers.get(name)):
                return f"{place}: {name} is {numbers[name]!r}"
    return _wrong_cases(value["cases"], classes)


def _wrong_cases(cases: Any, classes: Sequence[str]) -> str:
    """What is wrong with the scores by case; "" for nothing."""
    there = set()
    for case in cases:
        name, of = case["name"], case["class"]
        if of not in classes or not isinstance(name, str) or not isinstance(case.get("group", ""), str):
            return f"case {name} of group {case.get('group')} has the class {of}; the summary has {', '.join(classes)}"
        if (name, of) in there:
            return f"case {name}, {of}: it stands twice"
        there.add((name, of))
        for metric in (*METRICS, *FURTHER):
            if not _number(case[metric] if metric in METRICS else case.get(metric)):
                return f"case {name}: {metric} is {case[metric]!r}"
    if not there:
        return "it has no cases"
    lacking = len({name for name, _ in there}) * len(classes) - len(there)
    return f"{lacking} cases and classes are missing: it is not whole" if lacking else ""


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def group_of(case: Mapping[str, Any]) -> str:
    """The patient or piece of a case: what is drawn as a whole in a bootstrap."""
    return case.get("group") or case["name"]
