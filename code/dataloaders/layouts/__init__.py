"""Readers of the file layouts in which people download these data sets (each a `Source`, see `description.py`), and their check."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

from dataloaders.description import Case, Item, Source
from dataloaders.errors import Problems, UserError


def problem_of(source: Source, of: Case | Item, with_label: bool) -> str | None:
    """What is wrong with one image, with its label where that is wanted, and with a case's spacing; None if nothing is."""
    try:
        source.image(of)
        if with_label and source.label(of) is None:
            return f"{of.image}: {of.name} has no label, but is among the cases that need one."
        if isinstance(of, Case):
            source.spacing(of)
    except UserError as error:
        return str(error)
    return None


def read_by_a_run(source: Source, labeled: Iterable[Case], val: Iterable[Case],
                  unlabeled: Iterable[Case]) -> Iterator[tuple[Case | Item, bool]]:
    """What a run reads, and whether with its label."""
    for cases, with_label in ((list(labeled), True), (list(unlabeled), False)):
        for item in source.items(cases):
            yield item, with_label
    for case in val:
        yield case, True


def problems(source: Source, labeled: Iterable[Case], val: Iterable[Case], unlabeled: Iterable[Case]) -> None:
    """Reads images of all these cases and labels of labelled and validation cases; raises one `UserError` with all that is wrong."""
    found = Problems()
    for of, with_label in read_by_a_run(source, labeled, val, unlabeled):
        problem = problem_of(source, of, with_label)
        if problem is not None:
            found.add(problem)
    found.raise_any(f"{source.data.name} in {source.root}")
