"""What a result file asks for when its run is made again, what has changed since, and whether a new score is the old one's kind."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dataloaders import catalog
from dataloaders.errors import UserError
from dataloaders.splits.split import SplitRequest, make_split
from reporting.records import METRICS, Record, read, ways_of
from storage.folders import REPOSITORY, budget_word, model_folder, results_folder

LEAST = 3
"""Runs that make a spread."""
VARIES = ("seed", "labeled_seed", "fold")
"""Options by which runs of one row differ."""


@dataclass(frozen=True)
class Form:
    """What a script of today makes of a file that a script of several forms has written."""

    method: str
    fixed: Mapping[str, Any]
    """Options that are options no more, with the values that the script now has."""
    idle: tuple[str, ...] = ()
    """Options that the form never read."""


FORMS = {
    "FixMatch": {
        "default": Form("FixMatch", {
            "pseudo_labels": "teacher", "unsure": "ignore", "half": True, "rows": "unlabeled", "complementary": False,
            "weak_view": "dataset", "strong_view": "jitter", "min_foreground": 0.0}),
        "published_standard": Form("FixMatchStandardAugs", {
            "pseudo_labels": "student", "unsure": "background", "half": False, "rows": "all", "complementary": True,
            "weak_view": "turn_flip", "strong_view": "jitter", "min_foreground": 0.0}),
        "published_cta": Form("FixMatchCTA", {
            "pseudo_labels": "teacher", "unsure": "ignore", "half": False, "rows": "all", "complementary": False,
            "weak_view": "dataset", "strong_view": "ctaugment"}, ("jitter", "blur", "cutout")),
    },
}
"""Methods whose forms were values of --variant once and are scripts of their own now, by the recorded variant."""


def as_today(method: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(method, options) by which today's scripts make what a file records.

    Raises `UserError` where the options were a mixture of forms, of which there is no script any more.
    """
    form = FORMS.get(method, {}).get(options.get("variant", ""))
    if form is None:
        return method, dict(options)
    if mixed := [f"--{name} {options[name]}" for name, value in form.fixed.items() if options.get(name, value) != value]:
        raise UserError(f"{method} with --variant {options['variant']} is code/train_{form.method}.py now, which has no {', '.join(mixed)}."
                        " Check out the commit that the file names to train it again.")
    gone = {"variant", *form.fixed, *form.idle}
    return form.method, {name: value for name, value in options.items() if name not in gone}


@dataclass(frozen=True)
class Spread:
    """The recorded scores (mean Dice) of one row."""

    values: tuple[float, ...]
    said: str
    """Which runs: seeds 0, 1, 2; folds 0 to 4."""

    @property
    def limits(self) -> tuple[float, float] | None:
        """Mean minus and plus two standard deviations; None from fewer than three runs."""
        if len(self.values) < LEAST:
            return None
        return mean(self.values) - 2 * stdev(self.values), mean(self.values) + 2 * stdev(self.values)

    def holds(self, score: float) -> bool | None:
        """Whether the score lies inside; None where there is no spread."""
        if self.limits is None:
            return None
        return self.limits[0] - 1e-12 <= score <= self.limits[1] + 1e-12


def training_words(options: Mapping[str, Any]) -> list[str]:
    """Every recorded option as words of a command line."""
    words = []
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            words.append(f"--{name}={value}")
    return words


def testing_words(run: Mapping[str, Any]) -> list[str]:
    """The options of the test, as far as they shape a score."""
    test = run["test"]
    words = ["--empty", test["empty"], "--metric_backend", test["metrics"]]
    chosen = [score for entry in run.get("selected", {}).values() for key, score in entry.items() if key.startswith("validation_")]
    if run["selection"] == "last step" and None not in chosen:
        words += ["--checkpoint", "last"]
    words += ways_of(test)
    return words + (["--stride", *map(str, test["stride"])] if "stride" in test else [])


def experiment(record: Record) -> str:
    """The --exp of the run: from the file's place under results/, else as it is called without --exp."""
    folder = record.path.resolve().parent.parent
    end = f"_{budget_word(record.labeled_num)}_labeled"
    if folder.is_relative_to(results_folder().resolve()) and folder.name.endswith(end):
        return folder.relative_to(results_folder().resolve()).as_posix().removesuffix(end)
    return f"{record.data_set}/{record.method}"


def run_folder(record: Record) -> Path | None:
    """Where the run itself lies, if its file is in its place under results/."""
    place = record.path.resolve()
    if not place.is_relative_to(results_folder().resolve()):
        return None
    stem = place.stem if record.quoted else place.stem.removesuffix(f"_{record.run['predictor']}")
    return model_folder() / place.relative_to(results_folder().resolve()).parent / stem


def split_differences(record: Record, root: Path) -> list[str]:
    """What of the recorded split is otherwise in the data that lie there now. Opens lists and folders alone. Raises `UserError`."""
    options = record.options
    source = catalog.open_source(catalog.resolve(record.data_set, root, REPOSITORY)[0], root, options)
    split = make_split(source, SplitRequest.of({**options, "labeled_num": record.labeled_num}))
    lines = []
    for what, then, cases in (("labelled", record.run["split"]["labeled"], split.labeled),
                              ("validation", record.run["split"]["val"], split.val)):
        now = [case.name for case in cases]
        if then != now:
            other = [name for name in now if name not in then] or [name for name in then if name not in now] or ["the order"]
            lines.append(f"{len(then)} {what} cases then, {len(now)} now ({other[0]} differs)")
    if record.run["split"].get("unlabeled", len(split.unlabeled)) != len(split.unlabeled):
        lines.append(f"{record.run['split']['unlabeled']} unlabelled cases then, {len(split.unlabeled)} now")
    return lines


def spread_of(record: Record) -> Spread:
    """The scores of all runs of the same row that lie beside the file: the same method, budget, split and options, of any seed, fold
    or draw. Its own is one of them."""
    row = [other for other in read([record.path.parent])[0] if _same_row(record, other)]
    varying = {name: sorted({other.options[name] for other in row}) for name in VARIES if record.options[name] is not None}
    said = ", ".join(f"{name} {' '.join(map(str, values))}" for name, values in varying.items() if len(values) > 1)
    return Spread(tuple(score(other) for other in row), said)


def _same_row(record: Record, other: Record) -> bool:
    def fixed(one: Record) -> dict[str, Any]:
        return {name: value for name, value in one.options.items() if name not in VARIES}

    # Another predictor is another number; of several networks the best by validation is quoted, so the quoted one may change its name.
    same_kind = (record.quoted and other.quoted) or (record.quoted == other.quoted and record.run["predictor"] == other.run["predictor"])
    return (same_kind and record.method == other.method and record.data_name == other.data_name and fixed(record) == fixed(other)
            and (record.fold is None) == (other.fold is None) and other.summary["mean"].get("dice") is not None)


def score(record: Record) -> float:
    """Mean Dice."""
    return float(record.summary["mean"]["dice"])


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What made a run, then and now, where it differs: code, commit, versions, machine."""
    lines = [f"{name}: {then.get(name)} then, {now.get(name)} now" for name in ("code", "commit") if then.get(name) != now.get(name)]
    if then.get("processes", 1) != now.get("processes", 1):
        lines.append(f"{then.get('processes', 1)} processes then, {now.get('processes', 1)} now")
    for of in ("versions", "machine"):
        first, second = then.get(of, {}), now.get(of, {})
        lines += [f"{name}: {first.get(name)} then, {second.get(name)} now" for name in {**first, **second}
                  if first.get(name) != second.get(name)]
    return lines


def unequal_scores(first: Record, second: Record) -> list[str] | None:
    """The scores (case, class, metric) that are not equal to the last digit; None where the cases are not the same."""
    one, other = ({(case["name"], case["class"]): case for case in record.cases} for record in (first, second))
    if one.keys() != other.keys():
        return None
    return [f"{metric} of {key[1]} in {key[0]}" for key in one for metric in METRICS if one[key][metric] != other[key][metric]]


def compared(old: Record, new: Record, spread: Spread) -> tuple[bool, list[str]]:
    """(whether the new score confirms the old one, sentences). With a spread: whether it lies inside; without: whether it is equal."""
    unequal, inside = unequal_scores(old, new), spread.holds(score(new))
    lines = [f"Dice {score(old):.4f} recorded (seed {old.seed}), {score(new):.4f} now (seed {new.seed})."]
    if unequal is None:
        return False, [*lines, "The tested cases are not the same: the data set or its lists have changed."]
    if old.run["predictor"] != new.run["predictor"]:
        lines.append(f"Quoted was {old.run['predictor']}, the best of several on validation cases; now it is {new.run['predictor']}.")
    count = len(METRICS) * len(old.cases)
    if old.seed == new.seed:
        lines.append(f"All {count} scores are equal to the last digit." if not unequal
                     else f"{len(unequal)} of {count} scores are not equal to the last digit ({unequal[0]}, ...).")
    if spread.limits is None:
        there = f"only {len(spread.values)} run{'s' if len(spread.values) != 1 else ''} of this row beside the file"
        return not unequal, [*lines, f"There is no recorded spread ({there}; {LEAST} are needed), so nothing but equality can be told."]
    low, high = spread.limits
    lines.append(f"Recorded: {mean(spread.values):.4f} ± {stdev(spread.values):.4f} over {len(spread.values)} runs ({spread.said}); two "
                 f"standard deviations reach from {low:.4f} to {high:.4f}. The new score lies {'inside' if inside else 'OUTSIDE'}.")
    return bool(inside), lines
