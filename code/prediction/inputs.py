"""New images for a finished run: which files a folder has for it; how each is read and scaled is its data set's reader's."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataloaders import catalog
from dataloaders.description import DataSet, NewImage
from dataloaders.errors import UserError, shown
from dataloaders.layouts.nifti import VOXEL_FILES, stem_of
from dataloaders.listing import HEADERS, is_regular, natural, real_place, walk


@dataclass(frozen=True)
class Entry:
    """What is predicted as one: a file, or the files of the channels of one volume."""

    name: str
    """The (first) file's path below the input folder, parts joined by '/'."""
    files: tuple[Path, ...]
    stem: str
    """`name` without the ending, and without _0000 where there are numbered channels."""


@dataclass(frozen=True)
class Reader:
    """Reads new images for one run. Raises `UserError` for every file that cannot be read, or that the run cannot take."""

    data: DataSet
    remark: str = ""
    """Where the run's folder calls the classes otherwise by now."""

    @property
    def endings(self) -> tuple[str, ...]:
        """Of files that the run takes."""
        return self.data.reader.new_endings

    def __call__(self, entry: Entry) -> NewImage:
        return self.data.reader.read_new(self.data, entry.files)


def reader_for(config: Mapping[str, Any], network: Mapping[str, Any]) -> Reader:
    """The reader for a run, from its configuration and the arguments of its network; the run's data need not be there any more.

    Only nnU-Net's layout needs its dataset.json, which says how channels are scaled. Raises `UserError` where that is missing.
    """
    data = catalog.named(config["data_set"], config["dimensions"])
    classes, channels = int(network["num_classes"]), int(network["in_channels"])
    described = data.reader.described(data, Path(config["root"]), config["options"], classes, channels)
    then, now = tuple(map(str, config.get("classes", ()))) or described.classes, described.classes
    # "class 1": names that stand for some where the folder is no longer there.
    changed = len(then) == len(now) and then != now and now[1:] != tuple(f"class {k}" for k in range(1, classes))
    remark = f"{shown(config['root'])} calls its classes {', '.join(now)} by now; they are told as the run learned them: {', '.join(then)}."
    return Reader(replace(described, white=config.get("white"), classes=then if len(then) == classes else now), remark if changed else "")


def entries_in(place: Path, reader: Reader, without: Path, option: str = "--input") -> tuple[list[Entry], Counter[str]]:
    """What `place` (a folder with its subfolders, or one file) has for the run, in natural order; and the other files by ending.

    Hidden files and what lies below `without` (the output) are not looked at. Raises `UserError` where there is nothing; `option` is what
    gave `place`.
    """
    if place.is_file():
        found, base = [place], place.parent
    elif place.is_dir():
        found, base = [p for p in walk(place) if _is_file(p)], place
    else:
        raise UserError(f"{shown(place)}: there is no such file or folder; give the images with {option}.")
    outside = real_place(without)
    if real_place(place).is_relative_to(outside):
        raise UserError(f"{shown(without)}: holds the images ({shown(place)}); give another folder with --output.")
    found = [p for p in found if not real_place(p).is_relative_to(outside)]
    found.sort(key=lambda p: natural(p.relative_to(base).as_posix()))
    files = [p for p in found if p.name.lower().endswith(reader.endings)]
    chosen = set(files)
    named = VOXEL_FILES if any(p.suffix.lower() in HEADERS for p in files) else ()  # files that a header names are not passed over
    others = Counter(p.suffix.lower() or "no ending" for p in found if p not in chosen and p.suffix.lower() not in named)
    if not files:
        seen = ", ".join(f"{n} {ending}" for ending, n in others.most_common(5)) or "nothing"
        raise UserError(f"{shown(place)}: no file that this run takes ({', '.join(reader.endings)}); found: {shown(seen)}.")
    return _grouped(files, base, reader.data), others


def _is_file(path: Path) -> bool:
    """A link to nowhere counts: it is told of in the end."""
    return is_regular(path) or (path.is_symlink() and not path.exists())


def _grouped(files: list[Path], base: Path, data: DataSet) -> list[Entry]:
    """Files as entries; those that are channels of one case as one."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        path = file.relative_to(base)
        stem = path.with_name(stem_of(path.name) or path.stem).as_posix()
        case = data.reader.channel_of(data, stem)
        if case is not None:
            groups.setdefault(f"{case}\0", []).append(file)
        else:
            groups[f"{stem}\0{path.as_posix()}"] = [file]
    return [Entry(members[0].relative_to(base).as_posix(), tuple(members), key.split("\0")[0]) for key, members in groups.items()]
