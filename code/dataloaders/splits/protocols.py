"""What the parts of a split are: official splits, splits without leaks, folds.

Sources: simEps's and SSL4MIS's published splits; `code/README.md` says where ours differ.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataloaders.description import Case, Parts, Source
from dataloaders.errors import UserError
from dataloaders.splits import cross_val_dev
from dataloaders.splits.draws import by_group, check_fold, groups_of, in_order, last_first, permuted, strata_of, stratified_order


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


def listed_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The parts that lists or folders of the data set name."""
    train, val = source.cases("train"), source.cases("val")
    return Parts("official", train, val, source.cases("test") if with_test else None)


def acdc_ctct(source: Source, split_seed: int, with_test: bool) -> Parts:
    """Cross teaching (Luo et al., MIDL 2022): no validation part, and the validation and test patients of the lists are tested together."""
    test = [*source.cases("val"), *source.cases("test")] if with_test else None
    return Parts("ctct", source.cases("train"), [], test, (
        "Cross teaching's protocol: the last step is tested, on the 30 patients of validation and test; compare it with its own kind only "
        "(--protocol official: the best by validation, on the 20 test patients).",))


def neu_official(source: Source, split_seed: int, with_test: bool) -> Parts:
    """simEps: 15 % of the training folder (random_state 69) is validation; copies of a piece stand in several parts."""
    train, val = permuted(source.cases("train"), 0.15, 69)
    return Parts("official", last_first(train, 45), val, source.cases("test") if with_test else None, grouped=False, remarks=(
        "Official split: 570 of the 840 published test images have rotated copies in training; --protocol clean tests on the others.",))


def neu_clean(source: Source, split_seed: int, with_test: bool) -> Parts:
    """Tested on the images of which the training folder has no copy (270 of 840); validation is 15 % of the training folder, by group."""
    train = source.cases("train")
    seen = {case.group for case in train}
    val, rest = by_group(train, 0.15, split_seed)
    test = [case for case in source.cases("test") if case.group not in seen] if with_test else None
    return Parts("clean", rest, val, test, (
        "Clean split: tested on the images of which training has no rotated copy (270 of the 840 published ones); "
        "--protocol official is the published split, where 570 test images have copies in training.",))


def mt_official(source: Source, split_seed: int, with_test: bool) -> Parts:
    """simEps: a fifth (random_state 69) is test, and there is no validation part."""
    train, test = permuted(source.cases("train"), 0.2, 69)
    return Parts("official", last_first(train, 45), [], test if with_test else None, grouped=False, remarks=(
        "Official split: nearly every test image has another exposure of the same tile in training (--protocol clean has none).",))


def mt_clean(source: Source, split_seed: int, with_test: bool) -> Parts:
    """A fifth is test and 15 % of the rest is validation, by tile and stratified by the class folder."""
    test, rest = by_group(source.cases("train"), 0.2, split_seed)
    val, train = by_group(rest, 0.15, split_seed)
    return Parts("clean", train, val, test if with_test else None, (
        "Clean split: all exposures of a tile stand in one part; in the published split (--protocol official) 97 % of the test "
        "images have another exposure of their tile in training.",))


def isic_official(source: Source, split_seed: int, with_test: bool) -> Parts:
    """756 of the challenge's 2594 training images are tested, 1838 trained: the numbers of SemSim (arXiv 2410.13486), whose lists nobody
    has published. Drawn by the seed, the labelled ones too; images without a mask are for training only."""
    cases = source.cases("train")
    test, train = by_group([case for case in cases if case.label is not None], 0.2914, split_seed)
    train += [case for case in cases if case.label is None]
    return Parts("official", train, [], test if with_test else None, (
        f"Nobody has published the lists of this split (1838 and 756 images); ours are drawn: {len(train)} and {len(test)}.",))


def isic_challenge(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The three parts of ISIC 2018; the training images in an order drawn by the seed, of which the first are labelled."""
    train, val = source.cases("train"), source.cases("val")
    test = source.cases("test") if with_test else None
    missing = [word for word, cases in (("Validation", val), ("Test", test)) if cases == []]
    if missing:
        raise UserError(f"{source.root}: no folder ISIC2018_Task1-2_{missing[0]}_Input, which --protocol challenge needs; "
                        "put it there, or use --protocol official, which needs the training folders alone.")
    return Parts("challenge", in_order(train, stratified_order(train, split_seed)), val, test)


def dagm_official(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The Train and Test folders; 15 % of Train, stratified by class, is validation (seeds as simEps's, whose lists are not known)."""
    train = source.cases("train")
    val, rest = by_group(train, 0.15, 69)
    return Parts("official", in_order(rest, stratified_order(rest, 45)), val, source.cases("test") if with_test else None)


def folder_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """Own parts (`val/`, `test/`) where they exist, else a fifth of the labelled images is test and an eighth of the rest is validation."""
    cases, val, test = source.cases("train"), source.cases("val"), source.cases("test") if with_test or not has_part(source, "test") else []
    labeled, unlabeled = [c for c in cases if c.label is not None], [c for c in cases if c.label is None]
    needed = 1 + (not has_part(source, "val")) + (not has_part(source, "test"))
    if len(labeled) < needed:
        raise UserError(f"{source.root}: {len(labeled)} images with a mask; at least {needed} are needed for the parts.")
    remarks = []
    if not has_part(source, "test"):
        test, labeled = by_group(labeled, 0.2, split_seed)
        remarks.append(f"{source.root} has no test part of its own: a fifth of the labelled images ({len(test)}) is held out for test.")
    if not has_part(source, "val"):
        val, labeled = by_group(labeled, 0.125, split_seed)
        remarks.append(f"{source.root} has no validation part of its own: an eighth of the other labelled images ({len(val)}) is held out "
                       "for validation.")
    labeled = in_order(labeled, stratified_order(labeled, split_seed))
    return Parts("official", labeled + unlabeled, val, test if with_test else None, tuple(remarks))


def has_part(source: Source, part: str) -> bool:
    """Whether one's own data have the part: as their reader says, else as a folder of that name."""
    own = getattr(source, "has_part", None)
    return own(part) if own else (source.root / part).is_dir()


PROTOCOLS: dict[tuple[str, str], Callable[[Source, int, bool], Parts]] = {
    ("acdc", "official"): listed_parts,
    ("acdc", "ctct"): acdc_ctct,
    ("acdc", "cross_val_dev"): cross_val_dev.without_fold,
    ("phantom", "official"): listed_parts,
    ("neu", "official"): neu_official,
    ("neu", "clean"): neu_clean,
    ("mt", "official"): mt_official,
    ("mt", "clean"): mt_clean,
    ("dagm", "official"): dagm_official,
    ("isic", "official"): isic_official,
    ("isic", "challenge"): isic_challenge,
    ("folder", "official"): folder_parts,
    ("pairs", "official"): folder_parts,
    ("nnunet", "official"): folder_parts,
    ("promise12", "official"): listed_parts,
    ("la", "official"): listed_parts,
    ("phantom3d", "official"): listed_parts,
    ("brats", "official"): listed_parts,
    ("pancreas", "official"): listed_parts,
}
"""By layout and protocol: the parts, given the source, --split_seed, and whether the test part is wanted (it is not opened otherwise)."""


FOLDS = {("acdc", "cross_val_dev"): cross_val_dev.volume_blocks}
"""By layout and protocol: folds other than `fold_parts`."""
