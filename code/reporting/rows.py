"""From the records of a table to its rows: which runs belong together, what they are called, and which run is counted."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from command_line.declarations import without_value_in_name
from command_line.options import Options
from reporting.records import DRAWN, Record, ways_of

RECONSTRUCTIONS = {
    "SemSim": "a reconstruction from the paper's text, since there is no public code (docs/methods/semsim.md)",
    **{name: f"a reconstruction from the paper's abstract, since neither code nor text could be had (docs/methods/{page}.md)"
       for name, page in (("C3PS", "c3ps"), ("DCNet", "dc_net"), ("CRIINet", "crii_net"), ("FSSLPLD", "fssl_pld"))},
    "HCE": "a reconstruction from the abstract and the authors' later work, since there is no public code (docs/methods/hce.md)",
    "PatchCL": "a re-implementation, since its training was never released (docs/methods/patchcl.md)",
}
"""Methods whose script is none that its authors could compare with theirs."""

BASELINE = "Supervised"


@dataclass(frozen=True)
class Draft:
    """A row before anything is computed."""

    key: str
    label: str
    method: str
    baseline: str
    records: tuple[Record, ...]
    others: Mapping[str, tuple[Record, ...]]
    remarks: tuple[str, ...]


def run_of(record: Record) -> str:
    """The run that a result file belongs to, by its path."""
    stem = record.path.stem
    return str(record.path.with_name(stem if record.quoted else stem.removesuffix(f"_{record.run['predictor']}")))


def draw_key(record: Record) -> tuple[int, int, int]:
    """(fold, draw, seed), -1 for no fold and for the first in the list: what the runs of a row differ by."""
    return (-1 if record.fold is None else record.fold, -1 if record.draw is None else record.draw, record.seed)


def said(key: tuple[int, int, int]) -> str:
    """fold 0, draw 2, seed 1"""
    fold, draw, seed = key
    return ", ".join([*([f"fold {fold}"] if fold >= 0 else []), *([f"draw {draw}"] if draw >= 0 else []), f"seed {seed}"])


def rows_of(records: Sequence[Record], budget: str) -> list[Draft]:
    """The rows of a table with this label budget, sorted by label; the same setting twice is one row."""
    drafts: list[Draft] = []
    for method in sorted({record.method for record in records}):
        for role in ("", "same", "all"):
            mine = [record for record in records if record.method == method and _role(record, budget) == role]
            drafts += _split(method, role, mine)
    common = Counter(draft.records[0].options["model"] for draft in drafts).most_common(1)
    drafts = [_named(draft, common[0][0]) for draft in drafts]
    keys = Counter(draft.key for draft in drafts)
    doubled = [key for key, count in keys.items() if count > 1]
    return [replace(draft, key=f"{draft.key}-{place}") if draft.key in doubled else draft for place, draft in enumerate(drafts)]


def _role(record: Record, budget: str) -> str:
    if record.method != BASELINE:
        return ""
    return "all" if record.labeled_num == "all" and budget != "all" else "same"


def _split(method: str, role: str, records: Sequence[Record]) -> list[Draft]:
    """A draft for each setting of a method; labels hold what differs between them."""
    apart = _differing(records)
    settings: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        settings.setdefault(tuple(_text(record.options[name]) for name in apart), []).append(record)
    drafts = []
    for values, mine in settings.items():
        words = [value if name in ("model", "variant") else f"{name} {value}" for name, value in zip(apart, values)]
        label = method + (f" ({', '.join(words)})" if words else "") + (", all labels" if role == "all" else "")
        kept, remarks = _once(label, mine)
        if not kept:
            continue
        runs = {run_of(record) for record in kept}
        others: dict[str, tuple[Record, ...]] = {}
        for record in sorted((r for r in mine if not r.quoted and run_of(r) in runs), key=draw_key):
            others[record.run["predictor"]] = (*others.get(record.run["predictor"], ()), record)
        drafts.append(Draft(_slug(label), label, method, role, kept, others, (*remarks, *_remarks(method, kept))))
    return drafts


def _differing(records: Sequence[Record]) -> list[str]:
    """Options in which these runs of one method differ, the network and the variant first.

    What tells the runs of a row apart, and what the name of a run's folder leaves out, is no setting; nor is an option that an older file
    lacks.
    """
    if not records:
        return []
    shared = set.intersection(*(set(record.options) for record in records)) - ({*DRAWN, *without_value_in_name(Options)} - {"model"})
    apart = [name for name in shared if len({_text(record.options[name]) for record in records}) > 1]
    return sorted(apart, key=lambda name: (("model", "variant", name).index(name), name))


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower()


def _once(label: str, records: Sequence[Record]) -> tuple[tuple[Record, ...], list[str]]:
    """One quoted record for each fold, draw and seed, the newest file where there are several; what was left out is said."""
    newest: dict[tuple[int, int, int], Record] = {}
    remarks = []
    quoted = [record for record in records if record.quoted]
    for record in sorted(quoted, key=lambda r: (r.path.stat().st_mtime if r.path.exists() else 0, str(r.path))):
        key = draw_key(record)
        if key in newest:
            remarks.append(f"{label}, {said(key)} is there twice: {newest[key].path} is older and was not counted")
        newest[key] = record
    alone = {run_of(record) for record in records} - {run_of(record) for record in quoted}
    remarks += [f"{run}.json, the method's own number of this run, is not there or cannot be read: the run was not counted"
                for run in sorted(alone)]
    return tuple(newest[key] for key in sorted(newest)), remarks


def _remarks(method: str, records: Sequence[Record]) -> list[str]:
    """What is to be known of a row's runs."""
    found = []
    if method in RECONSTRUCTIONS:
        found.append(RECONSTRUCTIONS[method])
    if len(records) == 1:
        found.append("one run: no standard deviation, never marked as best; tests speak of this network, not of its method")
    selections = {record.run["selection"] for record in records}
    if any("test" in selection for selection in selections):
        found.append("checkpoint selected on test cases: its figures are too good")
    if len(selections) > 1:
        found.append("runs differ in how the checkpoint was chosen: " + "; ".join(sorted(selections)))
    if any(record.options.get("init_run") for record in records):
        found.append("started from the weights of an earlier run (--init_run): no benchmark row, left out of the best and of the ranks")
    changed = [record for record in records if record.run.get("changes")]
    if changed:
        found.append(f"{len(changed)} of {len(records)} runs went on after changes that were accepted (--accept_changes)")
    if len({record.run.get("code") for record in records}) > 1:
        found.append(f"runs were made by {len({record.run.get('code') for record in records})} states of the code")
    if any(record.run["test"].get("empty") == "published" for record in records):
        found.append("a missed class counts as distance 0 (test --empty published)")
    ways = {" ".join(ways_of(record.run["test"])) for record in records}
    if len(ways) > 1:
        found.append("runs differ in how they were tested: " + "; ".join(sorted(way or "with no option" for way in ways)))
    elif way := next(iter(ways), ""):
        found.append(f"tested with {way}")
    quoted = sorted({record.run["predictor"] for record in records})
    if len(quoted) > 1:
        found.append(f"quoted predictor by validation: {', '.join(quoted)}")
    return found


def _named(draft: Draft, common_model: str) -> Draft:
    """The network in the label where it is another than most rows have."""
    model = str(draft.records[0].options["model"])
    if model == common_model or f"({model}" in draft.label:
        return draft
    head, tail = draft.label[: len(draft.method)], draft.label[len(draft.method):]
    label = f"{head} ({model}, {tail[2:]}" if tail.startswith(" (") else f"{head} ({model}){tail}"
    return replace(draft, label=label, key=_slug(label))
