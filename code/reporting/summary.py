"""What a report says, computed once from records: Markdown, CSV, LaTeX and the page print this and compute nothing."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reporting.published import Figure
from reporting.records import Record, Skipped


@dataclass(frozen=True)
class Stat:
    """A metric of a row: mean and standard deviation over runs, and a bootstrap interval over cases (groups drawn whole)."""

    mean: float | None
    sd: float | None
    """Over runs (folds, draws, seeds); None from one run."""
    n: int
    """Runs."""
    low: float | None
    high: float | None
    """95 % interval."""


@dataclass(frozen=True)
class Row:
    """A method under one setting in one table."""

    key: str
    """Unique in its table, fit for an id of HTML."""
    label: str
    """What is printed: the method, and where rows differ also network, variant, options."""
    method: str
    baseline: str
    """"" for a method, "same" for supervised with the same labels, "all" for supervised with all."""
    records: tuple[Record, ...]
    """The quoted predictor of each run, sorted by fold, draw, seed."""
    others: Mapping[str, tuple[Record, ...]]
    """Further predictors by name."""
    stats: Mapping[tuple[str, str], Stat]
    """By (class or "mean", metric); metrics dice, jaccard, hd95_vox, asd_vox, those of `records.FURTHER` that all have, missed."""
    seconds: Stat
    """Training time of a run."""
    peak_memory: Stat
    """Bytes in training."""
    difference: Stat | None
    """Mean Dice minus that of supervised with the same labels, paired; None where there is no such row."""
    published: tuple[Figure, ...]
    draw_sd: float | None
    seed_sd: float | None
    """Standard deviations of mean Dice by the draw of the labelled cases, and by the seed; None unless both vary."""
    remarks: tuple[str, ...]
    """What is to be known of it: selected on test, accepted changes, a reconstruction, one seed, other code, ..."""
    fold_sd: float | None = None
    """Standard deviation of mean Dice by the fold (test and labelled cases together), where folds and seeds vary and draws do not."""
    against: str = ""
    """Key of the row that `difference` is the difference to."""
    other_stats: Mapping[str, Stat] = field(default_factory=dict)
    """Mean Dice of the further predictors, by name."""
    told: str = ""
    """"n.s." where that difference is not significant (after Holm), "" where it is or was not tested."""


@dataclass(frozen=True)
class Pair:
    """Two rows of a table on the same cases."""

    first: str
    second: str
    """Keys of rows, the better mean Dice first."""
    cases: int
    difference: float
    """Mean paired difference of Dice over cases (classes averaged, runs averaged)."""
    low: float
    high: float
    """95 % bootstrap interval, groups drawn whole."""
    p: float | None
    """Wilcoxon signed-rank, two-sided; None where it cannot be tested (reason in `said`)."""
    p_holm: float | None
    """After Holm's correction over all pairs of the table."""
    false_claim: float | None
    """Posterior probability that the first is not better (Christodoulou et al., arXiv 2505.04720)."""
    significant: bool
    """p after Holm's correction below 0.05."""
    said: str
    """What is to be known: why it was not tested, which runs or cases one of them lacks."""
    groups: int = 0
    """Patients or pieces: the units of the test; their cases were averaged first."""
    runs: int = 0
    """Runs that both have: the test speaks of other patients, these of other folds, draws and seeds."""
    better: int = 0
    """Runs in which the first is better."""


@dataclass(frozen=True)
class Ranks:
    """Friedman test and Nemenyi's critical difference over the rows that all have the same cases."""

    mean_rank: Mapping[str, float]
    """By key of row, 1 the best."""
    cases: int
    p: float | None
    """Friedman."""
    critical_difference: float | None
    cliques: tuple[tuple[str, ...], ...]
    """Groups of rows that do not differ."""
    groups: int = 0
    """Patients or pieces: the units that are ranked; their cases were averaged first."""


@dataclass(frozen=True)
class Table:
    """A data set, a label budget and a protocol."""

    key: str
    data_set: str
    labeled_num: str
    protocol: str
    dimensions: int
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    """Those that all rows have, in the order of printing."""
    rows: tuple[Row, ...]
    """Baselines first, then by mean Dice, best first."""
    pairs: tuple[Pair, ...]
    ranks: Ranks | None
    best: Mapping[tuple[str, str], tuple[str, ...]]
    """(class or mean, metric) -> keys of the best row and the second among methods with at least two runs; nothing where one run."""
    missing: tuple[str, ...]
    """Sentences: which baseline, fold or seed is not there, and the command that makes it."""
    remarks: tuple[str, ...]
    level: tuple[str, ...] = ()
    """Keys of the rows whose mean Dice does not differ significantly from that of the best (which is not among them)."""
    cases: int = 0
    """Test cases, over all folds."""
    groups: int = 0
    """Patients or pieces they come from."""
    by_matrix: bool = False
    """Whether Dice and Jaccard of each run are those of one confusion matrix: printed as IoU and mIoU, without intervals over cases."""


@dataclass(frozen=True)
class Report:
    title: str
    made: str
    """Date and commit."""
    tables: tuple[Table, ...]
    skipped: tuple[Skipped, ...]
    remarks: tuple[str, ...]
    """Synthetic data, mixed versions, mixed devices."""
    options: Mapping[str, Mapping[str, Any]]
    """Path of a result file -> the options of its run."""


def pair_of(table: Table, one: str, other: str) -> Pair | None:
    """The comparison of two rows, whichever is first."""
    return next((pair for pair in table.pairs if {pair.first, pair.second} == {one, other}), None)
