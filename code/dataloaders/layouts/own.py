"""What the layouts of somebody's own files share: the parts that the files name, and those that are drawn where they name none."""
from __future__ import annotations

from dataloaders.description import Parts, Source
from dataloaders.errors import UserError
from dataloaders.splits.draws import by_group, in_order, stratified_order

OWN_SCALE = ("Own volumes: each is scaled by its own mean and deviation, channel by channel (CT: clipped to its 0.5 and 99.5 percentiles "
             "before); the defaults are those of ACDC (2D) and BraTS 2019 (3D).")


def own_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """Own parts (`val/`, `test/`) where they exist, else a fifth of the labelled images is test and an eighth of the rest is validation."""
    cases, val = source.cases("train"), source.cases("val")
    test = source.cases("test") if with_test or not source.has_part("test") else []
    labeled, unlabeled = [c for c in cases if c.label is not None], [c for c in cases if c.label is None]
    needed = 1 + (not source.has_part("val")) + (not source.has_part("test"))
    if len(labeled) < needed:
        raise UserError(f"{source.root}: {len(labeled)} images with a mask; at least {needed} are needed for the parts.")
    remarks = []
    if not source.has_part("test"):
        test, labeled = by_group(labeled, 0.2, split_seed)
        remarks.append(f"{source.root} has no test part of its own: a fifth of the labelled images ({len(test)}) is held out for test.")
    if not source.has_part("val"):
        val, labeled = by_group(labeled, 0.125, split_seed)
        remarks.append(f"{source.root} has no validation part of its own: an eighth of the other labelled images ({len(val)}) is held out "
                       "for validation.")
    labeled = in_order(labeled, stratified_order(labeled, split_seed))
    return Parts("official", labeled + unlabeled, val, test if with_test else None, tuple(remarks))
