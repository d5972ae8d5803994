"""A split that a file gives: which cases of the training part are labelled, unlabelled, validated and tested, by their names.

    {"schema": 1, "name": "round0_fold1of3", "labeled": ["a", "b"], "unlabeled": null, "val": [], "test": ["c"]}

For whoever divides the labelled images further than a protocol does (`code/advice/`, folds over few labels) or names by hand what is
labelled. `unlabeled` null: all the rest, without images of a patient or piece that is validated or tested. `test` null: the protocol's own
test part. All other names are of what a run may learn from, so no test part is opened for such a file; labels of all cases but the
labelled, validated and tested ones count as unknown.
"""
from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataloaders.description import Case, Parts, Source
from dataloaders.errors import Problems, UserError

SCHEMA = 1
MOST = 2**26
"""Bytes of a file that is read."""
LISTS = ("labeled", "unlabeled", "val", "test")
MAY_BE_NULL = ("unlabeled", "test")


def training_part(source: Source, protocol: str, split_seed: int = 0) -> tuple[list[Case], bool]:
    """(all cases that a run may learn from, whether groups are whole in them): of somebody's own files the whole training part, of which
    nothing is drawn for a test; of other data sets the protocol's. Opens no test part."""
    if source.data.own:
        return source.cases("train"), True
    parts = source.data.reader.protocols[protocol](source, split_seed, False)
    return parts.train, parts.grouped


def written(path: Path, name: str, labeled: Sequence[str], test: Sequence[str] | None, unlabeled: Sequence[str] | None = None,
            val: Sequence[str] = ()) -> Path:
    """Writes such a file where there is no equal one; gives its path."""
    value = {"schema": SCHEMA, "name": name, "labeled": list(labeled), "unlabeled": None if unlabeled is None else list(unlabeled),
             "val": list(val), "test": None if test is None else list(test)}
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of such a file, checked. Raises `UserError`."""
    expected = 'expected {"schema": 1, "name": "...", "labeled": [...], "unlabeled": [...] or null, "val": [...], "test": [...] or null}'
    try:
        if path.stat().st_size > MOST:
            raise UserError(f"{path}: {path.stat().st_size} bytes; such a split is not read.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--split_file {path}: cannot be read ({error}); {expected}.") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or not re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", str(value.get("name"))):
        raise UserError(f"--split_file {path}: no split with a schema and a name of letters, digits, _ . -; {expected}.")
    for key in LISTS:
        names = value.setdefault(key, None if key in MAY_BE_NULL else [])
        if not (names is None and key in MAY_BE_NULL) and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise UserError(f"--split_file {path}: {key} is no list of names; {expected}.")
    return value


def given_parts(source: Source, path: Path, protocol: str, split_seed: int, with_test: bool) -> Parts:
    """The parts that the file gives. Raises `UserError` with every name that is not there, stands twice, or lacks its label."""
    value = read(path)
    pool, grouped = training_part(source, protocol, split_seed)
    by_name = {case.name: case for case in pool}
    found: dict[str, list[Case]] = {}
    problems, stands = Problems(), dict[str, str]()
    for key in LISTS:
        found[key] = []
        for name in value[key] or ():
            case = by_name.get(name)
            if case is None:
                problems.add(f"{key}: {name} is no case of the training part.")
            elif name in stands:
                problems.add(f"{key}: {name} stands in {stands[name]} too; a case belongs to one list, once.")
            elif key != "unlabeled" and case.label is None:
                problems.add(f"{key}: {name} has no label.")
            else:
                stands[name] = key
                found[key].append(case)
    problems.raise_any(f"--split_file {path}")
    held = {case.group for case in (*found["val"], *found["test"])}
    rest = found["unlabeled"] if value["unlabeled"] is not None else [
        case for case in pool if case.name not in stands and not (grouped and case.group in held)]
    test = found["test"] if value["test"] is not None else _own_test(source, protocol, split_seed) if with_test else None
    train = found["labeled"] + [replace(case, label=None) for case in rest]
    return Parts(value["name"], train, found["val"], test, (f"The split is that of {path.name}.",), grouped)


def _own_test(source: Source, protocol: str, split_seed: int) -> list[Case]:
    """The protocol's test part; of somebody's own files one that is named, and none that would be drawn."""
    if source.data.own:
        return source.cases("test") if source.has_part("test") else []
    return source.data.reader.protocols[protocol](source, split_seed, True).test or []
