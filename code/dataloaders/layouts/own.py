"""What the layouts of somebody's own files share: the parts that lists or folders name, and those that are drawn where none does."""
from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from os.path import commonprefix
from pathlib import Path

from dataloaders.description import Parts, Source
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import Entry, lines_of, read_list, unreadable
from dataloaders.listing import composed, entries, place_of
from dataloaders.splits.draws import by_group, in_order, stratified_order

OWN_SCALE = ("Own volumes: each is scaled by its own mean and deviation, channel by channel (CT: clipped to its 0.5 and 99.5 percentiles "
             "before); the defaults are those of ACDC (2D) and BraTS 2019 (3D).")
LISTS = ("train", "val", "test", "unlabeled")
"""What lists beside one's own images may be called, each with .txt or .list behind."""
LOOKS_LIKE = {"train": ("training",), "val": ("valid", "validation"), "test": ("testing",), "unlabeled": ("unlabelled",)}
"""What the parts are called elsewhere."""
TABLES = ("", ".txt", ".list", ".lst", ".csv", ".tsv", ".json", ".xlsx")
"""Endings of files that may be lists."""
GROUPS = "groups.csv"
FEWEST_FOLDERS = 5
"""Subfolders from which on they may be patients or pieces: of fewer, a part for test would be too large a share."""


def own_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The parts that lists or folders name. Without a test part a fifth of the labelled images is drawn, without one for validation an
    eighth of the rest; what is drawn is called so: "drawn", or "drawn_val" where it is the validation part alone."""
    cases, val = source.cases("train"), source.cases("val")
    own_val, own_test = source.has_part("val"), source.has_part("test")
    test = source.cases("test") if with_test and own_test else []
    labeled, unlabeled = [c for c in cases if c.label is not None], [c for c in cases if c.label is None]
    needed = 1 + (not own_val) + (not own_test)
    grouped, count = any(case.group != case.name for case in cases), len({case.group for case in labeled})
    if count < needed:
        raise UserError(f"{source.root}: {count} {'groups of images' if grouped else 'images'} with a mask; at least {needed} are needed "
                        "for the parts.")
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
    if grouped:
        held = {case.group for case in (*val, *(source.cases("test") if own_test else test))}
        beside = [case for case in unlabeled if case.group in held]
        unlabeled = [case for case in unlabeled if case.group not in held]
        if beside:
            remarks.append(f"{len(beside)} unlabelled images of a patient or piece that is tested or validated on are left out.")
    elif not own_test or not own_val:
        remarks.append(f"{source.root}: every image counts by itself in what is drawn. Nothing is known of copies, frames of one film or "
                       f"images of one patient, which may stand on both sides; {GROUPS} (image,group) says what belongs together.")
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
                text = composed(entry.name.removeprefix("images/"))
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


def groups_of(root: Path, images: Collection[str], labeled: Sequence[str], bare: Callable[[str], str | None],
              listed: bool) -> tuple[Mapping[str, str], list[str]]:
    """What each image belongs to (a patient, a piece), for those of which it is known; and sentences about it.

    By groups.csv, or else by subfolders where that is sure: every labelled image lies in one, there are `FEWEST_FOLDERS` or more, none has
    more than half of the labelled images, and no lists name the parts. bare: a file's name without its ending; listed: whether there are
    lists. Raises `UserError` with all that is wrong with groups.csv.
    """
    file = place_of(root, GROUPS)
    if file.exists():
        groups = read_groups(file, images, bare)
        alone = len(images) - len(groups)
        return groups, [f"{file}: {len(groups)} images in {len(set(groups.values()))} groups" + (f"; {alone} images are in none, and count "
                                                                                                "by themselves." if alone else "."),
                        *alike(file, groups.values())]
    folders = subfolders(images)
    counts = Counter(folders[name] for name in labeled if name in folders)
    if not counts or (len(counts) == 1 and len(set(folders.values())) == 1):
        return {}, []
    sure = len(counts) >= FEWEST_FOLDERS and sum(counts.values()) == len(labeled) and 2 * max(counts.values()) <= len(labeled)
    where = f"{root}: the labelled images lie in {len(counts)} subfolders"
    if sure and not listed:
        said = (f"{where}, which are taken for groups (patients, pieces): none stands on two sides of a drawn split. If they are no "
                f"groups, {GROUPS} (image,group) says so; with its first line alone every image counts by itself.")
        return folders, [said, *alike(root, folders.values())]
    return {}, [f"{where}, which are not taken for groups (patients, pieces); {GROUPS} (image,group) says what belongs together."]


def alike(place: Path, groups: Collection[str]) -> list[str]:
    """A sentence on groups whose names differ in nothing but capital letters."""
    names: dict[str, set[str]] = {}
    for group in groups:
        names.setdefault(group.casefold(), set()).add(group)
    both = [sorted(same) for same in names.values() if len(same) > 1]
    return [f"{place}: {first} and {second} count as two groups; if they are one patient or piece, write them alike."
            for first, second, *_ in both[:1]]


def subfolders(images: Collection[str]) -> dict[str, str]:
    """The first folder of each image's name below what all names have in common, for those that lie in one."""
    parts = {name: name.split("/")[:-1] for name in images}
    common = len(commonprefix(list(parts.values()))) if parts else 0
    return {name: "/".join(folders[: common + 1]) for name, folders in parts.items() if len(folders) > common}


def read_groups(file: Path, images: Collection[str], bare: Callable[[str], str | None]) -> dict[str, str]:
    """The group of each image that groups.csv names: a first line image,group and a line an image. Raises `UserError` with all faults."""
    try:
        lines = lines_of(file, "groups.csv has a line an image")
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text in UTF-8; expected a line image,group and then a line an image.") from None
    except OSError as error:
        raise unreadable(file, error) from None
    mark = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")
    try:
        rows = list(csv.reader(lines, delimiter=mark))
    except csv.Error as error:
        raise UserError(f"{file}: no table ({error}); is a quotation mark not closed? Expected a line image,group and then a line an image."
                        ) from None
    if not rows or [cell.strip().lower() for cell in rows[0]] != ["image", "group"]:
        raise UserError(f"{file}: the first line is {lines[0][:60] if lines else ''!r}; expected image,group and then a line an image.")
    problems, groups = Problems(), dict[str, str]()
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != 2 or not all(cells):
            problems.add(f"{file}, line {number}: {len(cells)} cells, {mark.join(cells)[:60]!r}; expected an image and its group.")
            continue
        text = composed(cells[0].removeprefix("images/"))
        name = text if text in images else bare(text)
        if name is None or name not in images:
            problems.add(f"{file}, line {number}: there is no image {text}; write the name of an image's file.")
        elif groups.setdefault(name, group := f"group {composed(cells[1])}") != group:
            problems.add(f"{file}, line {number}: {name} is in {groups[name]} already; an image belongs to one group.")
    problems.raise_any(str(file))
    return groups


def list_file(root: Path, part: str) -> Path | None:
    """The list of a part beside the images, None where there is none. Raises `UserError` where there are two, or a folder as well."""
    files = [file for ending in (".txt", ".list") if (file := place_of(root, f"{part}{ending}")).exists()]
    if len(files) == 2:
        raise UserError(f"{files[0]} and {files[1].name}: two lists of one part; keep one of them.")
    if files and part in ("val", "test") and (place_of(root, part) / "images").is_dir():
        raise UserError(f"{files[0]} and {root / part}{'/'}: a list and a folder of one part; keep one of them.")
    return files[0] if files else None


def not_read(root: Path) -> list[str]:
    """Remarks on what lies beside one's own images and looks like a list or a part, and is none by its name."""
    said = []
    for path in entries(root):
        stem, ending = path.stem.lower(), path.suffix.lower()
        part = next((part for part, others in LOOKS_LIKE.items() if stem in (part, *others)), None)
        if path.is_dir() and part in ("val", "test") and path.name.lower() != part and (path / "images").is_dir():
            said.append(f"{path}: holds images and is not read; a folder of a part is called {part}.")
        elif part and path.is_file() and (stem != part or ending not in (".txt", ".list")) and ending in TABLES:
            said.append(f"{path}: not read; a list of a part is called {part}.txt, with one name of an image a line.")
    return said
