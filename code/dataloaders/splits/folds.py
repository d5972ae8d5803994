"""Cross-validation: groups dealt out to folds."""
from __future__ import annotations

import numpy as np

from dataloaders.description import Case, Parts
from dataloaders.errors import UserError
from dataloaders.splits.draws import check_fold, groups_of, in_order, strata_of, stratified_order


def fold_parts(cases: list[Case], fold: int, folds: int, seed: int) -> Parts:
    """Fold `fold` of `folds` is the test part, an eighth of the other groups (at least one) is validation.

    The groups of a stratum are shuffled by `seed` and dealt out in turn, the next stratum going on where the last one ended, so that
    folds differ by one group at most and a stratum smaller than the number of folds is spread as well. Cases without a label,
    and groups of nothing else, are for training only.
    """
    labeled = [case for case in cases if case.label is not None]
    count = len(groups_of(labeled))
    check_fold(fold, folds)
    if count < max(folds, 4 if folds == 2 else 3):
        raise UserError(f"--folds {folds}: only {count} patients or groups of images have labels; write fewer folds.")
    generator = np.random.default_rng(seed)
    dealt: list[str] = []
    for names in strata_of(labeled).values():
        dealt += [names[i] for i in generator.permutation(len(names))]
    test = set(dealt[fold::folds])
    rest = [case for case in labeled if case.group not in test]
    order = stratified_order(rest, seed)
    val = order[: max(1, round(len(order) / 8))]
    train = in_order(rest, order[len(val):])
    held_out = test | set(val)
    train += sorted((c for c in cases if c.label is None and c.group not in held_out), key=lambda case: case.name)
    return Parts(f"fold{fold}of{folds}", train, in_order(rest, val), in_order(labeled, sorted(test)))
