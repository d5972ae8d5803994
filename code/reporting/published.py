"""Published figures beside ours, as data with their sources (`published.json`).

A figure keeps its lineage: which cases were tested, how the checkpoint was chosen, who printed it. Figures of two lineages are never
mixed, averaged or ranked, and none is comparable with ours unless our protocol tests the same cases.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("published.json")
SELECTIONS = ("validation cases", "last step", "test cases", "perhaps test cases", "not known")


@dataclass(frozen=True)
class Figure:
    """One row of a published table, as its source prints it."""

    data_set: str
    labeled_num: str
    """Our words: 7, 10%, all; "" where the source does not say, or what it says is contradicted."""
    method: str
    dice: float | None
    """Per cent."""
    jaccard: float | None
    hd95: float | None
    asd: float | None
    unit: str
    """Of the distances: voxels, mm or unknown."""
    network: str
    source: str
    """Key of the source."""
    protocol: str
    """What its authors did: split, selection."""
    comparable: bool
    """Whether its split and selection are those of our protocol (without one: of one of our protocols)."""
    remark: str
    lineage: str = ""
    """Figures of one lineage share test cases and selection; those of two are not to be compared."""
    comparable_with: tuple[str, ...] = ()
    """Our protocols with the same test cases, where the source is not known, or doubted, to select on them."""
    labeled: tuple[str, ...] = ()
    """Every word for the budget: 7 and 10%."""
    printed: str = ""
    """The method as its source calls it."""
    selected_on: str = "not known"
    """What chose the step that was tested: a word in `SELECTIONS`."""

    @property
    def on_test(self) -> str:
        """What is said wherever the figure is shown: that its step was chosen on the test cases, or that this is doubted; else ""."""
        return {"test cases": "selected on test cases", "perhaps test cases": "perhaps selected on test cases"}.get(self.selected_on, "")


@dataclass(frozen=True)
class Source:
    """Where figures come from."""

    key: str
    title: str
    """Authors, title and place, or the page's address."""
    read: str
    """How it was read: the paper, a public copy, off a plot."""
    note: str
    """How far it can be trusted; what is missing."""


@cache
def sources() -> Mapping[str, Source]:
    """All sources by key."""
    return {key: Source(key, **value) for key, value in _content()["sources"].items()}


@cache
def figures() -> tuple[Figure, ...]:
    """All figures in the order of the file.

    Raises ValueError where one names a source or lineage that is not there, and where one that perhaps was selected on test cases is
    called comparable. (One that was, openly, is so with a protocol of ours that selects on them too: natural scenes.)
    """
    content, known = _content(), sources()
    found = []
    for entry in content["figures"]:
        lineage = content["lineages"].get(entry["lineage"])
        if lineage is None or entry["source"] not in known or lineage["data_set"] != entry["data_set"]:
            raise ValueError(f"{FILE}: {entry['method']} on {entry['data_set']} has no lineage or source of its own.")
        fitting = tuple(entry.get("comparable_with", lineage["comparable_with"]))
        selected_on = entry.get("selected_on", lineage["selected_on"])
        if selected_on not in SELECTIONS or (fitting and selected_on == "perhaps test cases"):
            raise ValueError(f"{FILE}: {entry['method']} on {entry['data_set']} was selected on {selected_on}; expected is one of "
                             f"{', '.join(SELECTIONS)}, and what perhaps was selected on test cases is comparable with nothing.")
        found.append(Figure(
            entry["data_set"], next(iter(entry["labeled"]), ""), entry["method"], entry["dice"], entry["jaccard"], entry["hd95"],
            entry["asd"], entry["unit"], entry.get("network", lineage["network"]), entry["source"], lineage["protocol"], bool(fitting),
            entry.get("remark", ""), entry["lineage"], fitting, tuple(entry["labeled"]), entry["printed"],
            selected_on))
    return tuple(found)


def find(data_set: str, labeled_num: str, method: str, protocol: str | None = None) -> list[Figure]:
    """Published figures of a method (our script's name) on a data set with a label budget (7, 10%, all), comparable ones first.

    `protocol`: ours, as `Record.protocol` says it (official, clean, ctct, 5 folds); `comparable` is then about this one. Where there
    is no figure the list is empty.
    """
    fitting = [figure for figure in figures()
               if figure.data_set == data_set and labeled_num in figure.labeled and figure.method == method]
    if protocol is not None:
        fitting = [replace(figure, comparable=protocol in figure.comparable_with) for figure in fitting]
    return sorted(fitting, key=lambda figure: (not figure.comparable, figure.dice is None and figure.jaccard is None))


@cache
def _content() -> dict[str, dict]:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    if content["schema"] != 1:
        raise ValueError(f"{FILE}: schema {content['schema']}; this program reads 1.")
    return content
