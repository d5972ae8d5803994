"""results/NAME/splits.json: who is trained, labelled, validated and tested in every split of a sweep, the same for all methods.

Names alone: no path, no date, no machine, so that the file is made again, byte for byte, from the data set's names and the seeds.
"""
from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dataloaders.description import Case, Part, Source
from dataloaders.errors import UserError
from dataloaders.splits.draws import groups_of
from dataloaders.splits.split import SplitRequest, make_split, parts_of
from storage.checkpoint import write_json
from storage.folders import split_name
from storage.sealed import parsed, sealed

SCHEMA = 1


class ListedOnce:
    """A source whose lists and folders are read once, however many splits are made of it."""

    def __init__(self, source: Source):
        self.source, self._cases = source, dict[Part, list[Case]]()

    def cases(self, part: Part) -> list[Case]:
        if part not in self._cases:
            self._cases[part] = self.source.cases(part)
        return self._cases[part]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def write_splits(path: Path, source: Source, requests: Iterable[SplitRequest]) -> None:
    """Writes the splits of a sweep into `path` (results/NAME/splits.json), beside those that are there already, atomically.

    `requests`: those of its runs as the scripts resolve them (`sweeps.planning`), in any order, repeated or not. Where a protocol has no
    validation part, methods whose schedule follows a score hold training images out, and the others do not: it then has two splits.

        write_splits(results_folder() / "ACDC" / "splits.json", source, [SplitRequest("official", fold=0, labeled_num="7")])

    Opens lists and folders of all parts, test lists too, but no test image. The file of the same splits is the same to the byte, whatever
    the order of the calls. Raises `UserError` where a split cannot be made, and where the file holds another split under the same
    name (the data set, or its lists, have changed), with the difference; then nothing is written.
    """
    value = described(ListedOnce(source), requests)
    if path.exists():
        value = merged(path, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, sealed(value))


def described(source: Any, requests: Iterable[SplitRequest]) -> dict[str, Any]:
    """The content of the file for these requests."""
    splits: dict[str, dict[str, Any]] = {}
    for request in sorted(set(requests), key=str):
        protocol, fold, folds = request.protocol or source.data.protocols[0], request.fold, request.folds
        split = make_split(source, request)
        name = split_name(split.name, protocol, source.data.protocols[0], fold, folds, request.split_seed)
        name += "_held_out" if split.held_out else ""
        if name not in splits:
            parts = parts_of(source, request, with_test=True)
            members = {case.name for case in (*split.labeled, *split.unlabeled, *split.left_out)}
            splits[name] = {
                "fold": fold, "folds": None if fold is None else folds, "split_seed": request.split_seed, "protocol": protocol,
                "selection": split.selection, "train": listed([case for case in parts.train if case.name in members]),
                "val": listed(split.val), "test": listed(sorted(parts.test or [], key=lambda case: case.name)), "labeled": {}}
        draw = "first" if request.labeled_choice == "first" else f"draw{request.labeled_seed}"
        splits[name]["labeled"].setdefault(request.labeled_num, {})[draw] = {
            **listed(split.labeled), "left_out": [case.name for case in split.left_out],
            "unlabeled": len(split.unlabeled), "unlabeled_digest": digest([case.name for case in split.unlabeled])}
    return {"schema": SCHEMA, "data_set": source.data.name, "budget_counts": f"{source.data.unit}s",
            "strata": source.data.strata or "not known; folds and draws are not stratified", "splits": sorted_splits(splits)}


def listed(cases: Sequence[Case]) -> dict[str, Any]:
    """Names of the cases in their order, their groups, how many groups each stratum has, and a digest of the names."""
    names, groups = [case.name for case in cases], groups_of(cases)
    strata = Counter(members[0].stratum for members in groups.values() if members[0].stratum)
    return {"cases": names, "groups": list(groups), **({"strata": dict(sorted(strata.items()))} if strata else {}), "digest": digest(names)}


def digest(names: Sequence[str]) -> str:
    """That of a run's config.json: the first 16 digits of SHA-256 of the names, a line each."""
    return hashlib.sha256("\n".join(names).encode(errors="backslashreplace")).hexdigest()[:16]


def sorted_splits(splits: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Splits by seed and fold, budgets by what they label, draws by number."""
    ordered = sorted(splits.items(), key=lambda one: (one[1]["split_seed"], -1 if one[1]["fold"] is None else one[1]["fold"], one[0]))
    return {name: {**split, "labeled": {
        budget: dict(sorted(draws.items(), key=lambda one: int(one[0].removeprefix("draw").replace("first", "-1"))))
        for budget, draws in sorted(split["labeled"].items(), key=lambda one: (len(next(iter(one[1].values()))["cases"]), one[0]))
    }} for name, split in ordered}


def merged(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    """What the file holds and what is new. Raises `UserError` where they contradict each other, or the file is no such file."""
    try:
        old = parsed(path.read_bytes())
        lines = differences(old, new)
        splits = dict(old["splits"])
        for name, split in new["splits"].items():
            labeled = {budget: dict(draws) for budget, draws in splits.get(name, {"labeled": {}})["labeled"].items()}
            for budget, draws in split["labeled"].items():
                labeled.setdefault(budget, {}).update(draws)
            splits[name] = {**split, "labeled": labeled}
        if not lines:
            return {**new, "splits": sorted_splits(splits)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: this is no file of splits that can be read ({type(error).__name__}: {error}). Move it aside, and it is "
                        "made again.") from error
    raise UserError("\n".join([
        f"{path}: other splits were written here under the same name; the data set or its lists have changed since:",
        *(f"  - {line}" for line in lines[:20]), *([f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else []),
        "Bring the old data back, or choose another place by --exp NAME: scores of both do not belong in one table."]))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A line for everything that both say, and say differently."""
    lines = [f"{key}: {old.get(key)} then, {new[key]} now" for key in ("schema", "data_set", "budget_counts", "strata")
             if old.get(key) != new[key]]
    for name, split in new["splits"].items():
        before = old["splits"].get(name)
        if before is None:
            continue
        lines += [f"{name}, {key}: {before[key]} then, {split[key]} now" for key in ("protocol", "selection") if before[key] != split[key]]
        pairs = [(f"{name}, {part}", before[part], split[part]) for part in ("train", "val", "test")]
        pairs += [(f"{name}, labelled {budget} ({draw})", before["labeled"][budget][draw], found)
                  for budget, draws in split["labeled"].items() for draw, found in draws.items()
                  if draw in before["labeled"].get(budget, {})]
        lines += [f"{where}: {said}" for where, then, now in pairs if then != now and (said := difference(then, now))]
    return lines


def difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    """What two lists of one name do not have in common."""
    gone, come = ([case for case in one["cases"] if case not in set(other["cases"])] for one, other in ((then, now), (now, then)))
    if not gone and not come:
        same = then["cases"] == now["cases"]
        return "the same cases, otherwise grouped or with other unlabelled ones" if same else "the same cases in another order"
    parts = [f"{len(names)} only {when} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
             for names, when in ((gone, "then"), (come, "now")) if names]
    return f"{len(then['cases'])} cases then, {len(now['cases'])} now; {' and '.join(parts)}"
