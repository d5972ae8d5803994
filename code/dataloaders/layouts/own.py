"""What the layouts of somebody's own files share: the parts that lists or folders name, and those that are drawn where none does."""
from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from dataloaders.description import Parts, Source
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import Entry, read_list
from dataloaders.splits.draws import by_group, in_order, stratified_order

OWN_SCALE = ("Own volumes: each is scaled by its own mean and deviation, channel by channel (CT: clipped to its 0.5 and 99.5 percentiles "
             "before); the defaults are those of ACDC (2D) and BraTS 2019 (3D).")
LISTS = ("train", "val", "test", "unlabeled")
"""What lists beside one's own images may be called, each with .txt or .list behind."""


def own_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The parts that lists or folders name. Without a test part a fifth of the labelled images is drawn, without one for validation an
    eighth of the rest; what is drawn is called so: "drawn", or "drawn_val" where it is the validation part alone."""
    cases, val = source.cases("train"), source.cases("val")
    own_val, own_test = source.has_part("val"), source.has_part("test")
    test = source.cases("test") if with_test and own_test else []
    labeled, unlabeled = [c for c in cases if c.label is not None], [c for c in cases if c.label is None]
    needed = 1 + (not own_val) + (not own_test)
    if len(labeled) < needed:
        raise UserError(f"{source.root}: {len(labeled)} images with a mask; at least {needed} are needed for the parts.")
    remarks = []
    if not own_test:
        test, labeled = by_group(labeled, 0.2, split_seed)
        remarks.append(f"{source.root} names no test images: a fifth of the labelled ones ({len(test)}) is drawn and held out for test.")
    if not own_val:
        val, labeled = by_group(labeled, 0.125, split_seed)
        remarks.append(f"{source.root} names no validation images: an eighth of the other labelled ones ({len(val)}) is drawn and held "
                       "out for validation.")
    if not source.has_part("train"):
        labeled = in_order(labeled, stratified_order(labeled, split_seed))
    name = "official" if own_val and own_test else "drawn_val" if own_test else "drawn"
    return Parts(name, labeled + unlabeled, val, test if with_test else None, tuple(remarks))


class Lists:
    """The lists beside one's own images: `train`, `val`, `test`, `unlabeled`, each .txt or .list, one name of an image a line.

    A name is that of a file below `images/`, with or without its ending (and `images/` before it). All lists are read at once, test
    lists too, so that no image of one part is taken for another; test images stay closed. Raises `UserError` with all that is wrong.
    """

    def __init__(self, root: Path, images: Collection[str], bare: Callable[[str], str | None]):
        """images: names without endings; bare: a file's name without its ending, None for one that is no image."""
        self.files = {part: file for part in LISTS if (file := list_file(root, part))}
        self.names: dict[str, list[str]] = {}
        problems, stands = Problems(), dict[str, Entry]()
        for part, file in self.files.items():
            self.names[part] = []
            for entry in read_list(file):
                text = entry.name.removeprefix("images/")
                name = text if text in images else bare(text)
                if name is None or name not in images:
                    problems.add(f"{entry.where}: there is no image {root / 'images' / text}; write the name of a file in images/, "
                                 "with or without its ending.")
                elif name in stands:
                    problems.add(f"{entry.where}: {name} stands in {stands[name].where} too; an image belongs to one list, once.")
                else:
                    stands[name] = entry
                    self.names[part].append(name)
        problems.raise_any(str(root))
        self.left = [name for name in images if name not in stands]
        """Images in no list."""

    @property
    def training(self) -> list[str]:
        """Names of the training part in order: the train list, or without one all that no other list names; then the unlabelled."""
        return [*self.names.get("train", self.left), *self.names.get("unlabeled", [])]


def list_file(root: Path, part: str) -> Path | None:
    """The list of a part beside the images, None where there is none. Raises `UserError` where there are two, or a folder as well."""
    files = [file for ending in (".txt", ".list") if (file := root / f"{part}{ending}").exists()]
    if len(files) == 2:
        raise UserError(f"{files[0]} and {files[1].name}: two lists of one part; keep one of them.")
    if files and part in ("val", "test") and (root / part / "images").is_dir():
        raise UserError(f"{files[0]} and {root / part}{'/'}: a list and a folder of one part; keep one of them.")
    return files[0] if files else None
