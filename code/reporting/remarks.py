"""What a reader must know beside the numbers: what is missing and how to make it, and what makes rows unequal."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from dataloaders.catalog import DATA_SETS
from reporting.commands import absent, command_for
from reporting.comparison import started
from reporting.records import Record
from reporting.rows import BASELINE, Draft, draw_key, said
from reporting.scores import Cases, Key, Scores

SHORT = 0.2
"""Share of the published training steps below which figures are not to be put beside published ones."""

EQUAL = {"max_iterations": "training steps", "patch_size": "size of the training images", "precision": "precision"}
"""Options that a fair comparison keeps equal over methods."""


def missing(drafts: Sequence[Draft], budget: str) -> Iterator[str]:
    """Sentences: baselines and runs that are not there, each with the command that makes them."""
    methods = [draft for draft in drafts if draft.baseline != "all"]
    like = next((draft for draft in methods if draft.baseline == ""), drafts[0]).records[0]
    expected: set[Key] = {draw_key(record) for draft in methods for record in draft.records}
    if not any(draft.baseline == "same" for draft in drafts):
        yield (f"There is no row supervised with the same labels, so nothing says what the unlabelled images bring. It is made by: "
               f"{command_for(like, BASELINE, budget, sorted(expected))}")
    if budget != "all" and not any(draft.baseline == "all" for draft in drafts):
        undrawn: list[Key] = sorted({(key[0], -1, key[2]) for key in expected})
        yield f"There is no row supervised with all labels, the upper bound. It is made by: {command_for(like, BASELINE, 'all', undrawn)}"
    for draft in drafts:
        wanted: set[Key] = expected if draft.baseline != "all" else {(key[0], -1, key[2]) for key in expected}
        lacking = absent(draft.records, wanted)
        if lacking:
            sample = draft.records[0]
            keys: list[Key] = lacking if len(lacking) == 1 else sorted(wanted)
            yield (f"{draft.label} has {len(draft.records)} of the {len(wanted)} runs that the table has; without {_first(lacking)}. "
                   f"Made by: {command_for(sample, draft.method, sample.labeled_num, keys)}")


def _first(keys: Sequence[Key], most: int = 3) -> str:
    shown = "; ".join(said((key[0], key[1], key[2])) for key in keys[:most])
    return shown + (f"; and {len(keys) - most} more" if len(keys) > most else "")


def of_table(drafts: Sequence[Draft], cases: Cases, scores: Mapping[str, Scores], equals: Sequence[str]) -> Iterator[str]:
    """What makes the rows of a table unequal."""
    for draft in drafts:
        if draft.baseline != "all" and draft.key not in equals and not started(draft):
            yield (f"{draft.label} was tested on other cases than most rows ({int(scores[draft.key].cases.sum())}; they: "
                   f"{int(scores[equals[0]].cases.sum())}): it is left out of the best and of the ranks")
    for option, words in EQUAL.items():
        found: dict[str, list[str]] = {}
        for draft in drafts:
            value = draft.records[0].options.get(option)
            text = "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            found.setdefault(text, []).append(draft.label)
        if len(found) > 1:
            yield f"{words} differ: " + "; ".join(f"{text} ({', '.join(labels)})" for text, labels in found.items())
    yield from _own_schedule(drafts)
    labeled: dict[tuple[int | None, int | None], set[tuple[str, ...]]] = {}
    for draft in drafts:
        for record in draft.records if draft.baseline != "all" else ():
            labeled.setdefault((record.fold, record.draw), set()).add(tuple(record.run["split"].get("labeled", ())))
    if any(len(lists) > 1 for lists in labeled.values()):
        yield "rows were not trained on the same labelled cases, although fold and draw are the same: they are not comparable"
    if not cases.grouped:
        yield "some result files are older than the field `group`: there every case counts as a patient of its own"
    matrices = [record.by_matrix for draft in drafts for record in draft.records]
    if all(matrices):
        yield ("Dice, IoU and mIoU are those of one confusion matrix over all test images, which has no interval over images; pairs, ranks "
               "and the difference to supervised compare the Dice of the images one by one")
    elif any((record.summary[of].get("both_empty") or 0) for draft in drafts for record in draft.records for of in record.classes):
        yield ("not every case has every class: `mean` is the mean over classes of the mean over the cases that have the class, while "
               "pairs and ranks take each case's mean over its classes")


def _own_schedule(drafts: Sequence[Draft]) -> Iterator[str]:
    """A sentence where the runs are so far from the published schedule of their data set that published figures say nothing of them."""
    first = drafts[0].records[0]
    data = DATA_SETS.get(first.data_set)
    if data is None or data.synthetic:
        return
    defaults = {**data.defaults, **data.protocol_defaults.get(first.options["protocol"], {})}
    steps, size = defaults.get("max_iterations"), defaults.get("patch_size")
    most = max(record.options["max_iterations"] for draft in drafts for record in draft.records)
    said = []
    if isinstance(steps, int) and most < SHORT * steps:
        said.append(f"{most} steps (published: {steps})")
    if isinstance(size, tuple) and tuple(first.options["patch_size"]) != size:
        said.append(f"images of {'x'.join(map(str, first.options['patch_size']))} (published: {'x'.join(map(str, size))})")
    if said:
        yield f"trained with {' and '.join(said)}: not to be put beside published figures"


def of_report(records: Sequence[Record]) -> Iterator[str]:
    """What was said when the runs were made (synthetic data above all), and in what their making differs."""
    for data_set in sorted({record.data_set for record in records}):
        told = Counter(remark for record in records if record.data_set == data_set for remark in record.run.get("remarks", ()))
        for remark in told:
            yield remark if remark.startswith(data_set) else f"{data_set}: {remark}"
    for words, values in (
            ("versions of torch", [record.run["versions"].get("torch") for record in records]),
            ("devices", [record.run["machine"].get("device") for record in records])):
        counts = Counter(str(value) for value in values)
        if len(counts) > 1:
            yield f"the runs were made with several {words}: " + ", ".join(f"{value} ({n})" for value, n in sorted(counts.items()))
    mixed = sorted({record.method for record in records} & _mixed(records))
    if mixed:
        yield f"runs of {', '.join(mixed)} were made by several states of the code (`code` in the result files)"


def _mixed(records: Sequence[Record]) -> set[str]:
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record.method, set()).add(str(record.run.get("code")))
    return {method for method, codes in found.items() if len(codes) > 1}
