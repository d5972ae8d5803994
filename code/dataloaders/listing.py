"""What lies in a folder, for every reader: one lister, so that all of them pass over the same things and say so in the same words.

Not seen are hidden files and folders (also the `._NAME` that macOS puts beside NAME) and what systems and storage boxes keep for themselves
(`SERVICE`). Endings are compared without case, links are followed, each folder once, and names are in Unicode's composed form (NFC), in
which macOS does not store them.
"""
from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dataloaders.errors import UserError

SERVICE = frozenset(("@eadir", "#recycle", "#snapshot", "__macosx", "__pycache__", "$recycle.bin", "system volume information",
                     "lost+found", "@recycle", "@recently-snapshot", "~snapshot", "recycler", "recycled", "network trash folder",
                     "temporary items", "sha256sums", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
"""Names, in lower case, of files and folders that nobody put there (Synology, QNAP, NetApp, macOS, Windows, Python), and of checksums."""
HEADERS = (".mhd", ".nrrd")
"""Endings of files that may keep their voxels in another one."""
VOXELS = re.compile(rb"^(?:ElementDataFile[ \t]*=|data ?file:)[ \t]*(.+?)[ \t]*\r?$", re.MULTILINE | re.IGNORECASE)
"""The line that names it."""
NAMED = 8
"""Endings in a sentence about what was passed over."""


@dataclass
class Listing:
    """The files of a folder that were looked for, and what else was seen there."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    """By name without its ending, in natural order, folders below joined by '/'."""
    others: Counter[str] = field(default_factory=Counter)
    """How many other files there are, by ending in lower case."""
    nowhere: list[Path] = field(default_factory=list)
    """Links to nothing, and what is no regular file (pipes, devices)."""

    def passed_over(self) -> str:
        """20 .heic, 3 without ending; empty where everything was taken."""
        more = len(self.others) - NAMED
        named = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in self.others.most_common(NAMED))
        return named + (f" and {more} other kinds" if more > 0 else "")

    def remarks(self, kind: str) -> list[str]:
        """Sentences on what was seen and not taken; `kind`: what was looked for."""
        said = [f"{self.folder}: passed over, as no {kind}: {self.passed_over()}.{to_do(self.others)}"] if self.others else []
        if self.nowhere:
            said.append(f"{self.nowhere[0]}: a link to nothing, or no regular file ({len(self.nowhere)} such in {self.folder}); not used.")
        return said


def to_do(others: Counter[str]) -> str:
    """What to do about files that are not read, where something is known."""
    if any(ending in (".dcm", ".dicom", ".ima") for ending in others):
        return " DICOM is not read: dcm2niix writes a series as one NIfTI volume; single pictures are exported as 16-bit PNG."
    if any(ending in (".heic", ".heif", ".jp2", ".j2k", ".avif", ".jxl", ".dng", ".cr2", ".nef", ".arw") for ending in others):
        return " Convert them to PNG, TIFF or JPEG to use them."
    return ""


def is_service(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or is a system's own."""
    return name.startswith(".") or name.lower() in SERVICE


def composed(name: str) -> str:
    """A name in Unicode's composed form, in which names are compared."""
    return unicodedata.normalize("NFC", name)


def entries(folder: Path) -> list[Path]:
    """What a folder has, sorted, without what is hidden or a system's own; nothing where there is no such folder."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if not is_service(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}).") from None


def walk(folder: Path, deep: bool = True) -> Iterator[Path]:
    """Everything below a folder that is no folder; with `deep` in folders and linked folders too, each of which is visited once.

    Real folders come before links to them, so that a file has the name of its true place.
    """
    waiting, linked, seen = [folder], list[Path](), set[tuple[int, int]]()
    while waiting or linked:
        place = waiting.pop() if waiting else linked.pop(0)
        try:
            state = os.stat(place)
        except OSError:
            continue
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        for path in entries(place):
            if not path.is_dir():
                yield path
            elif deep and path.is_symlink():
                linked.append(path)
            elif deep:
                waiting.append(path)


def listing(folder: Path, stem_of: Callable[[str], str | None], deep: bool = True) -> Listing:
    """The files of a folder whose name `stem_of` gives without its ending (None: another file).

    Raises `UserError` where two files have one name, as stored or composed.
    """
    found = Listing(folder)
    named: list[tuple[str, Path]] = []
    for path in walk(folder, deep):
        stem = stem_of(path.name)
        if not is_regular(path):
            found.nowhere.append(path)
        elif stem is None:
            found.others[path.suffix.lower()] += 1
        else:
            named.append((composed(path.relative_to(folder).with_name(stem).as_posix()), path))
    for stem, path in sorted(named, key=lambda pair: natural(pair[1].relative_to(folder).as_posix())):
        if stem in found.files:
            other = found.files[stem]
            how = "" if composed(other.name) == other.name and composed(path.name) == path.name else (
                " (the same letters, once composed and once not, as macOS stores them)")
            raise UserError(f"{other} and {path.name}: two files of one stem{how}; keep one of them.")
        found.files[stem] = path
    return found


def state_of(state: os.stat_result) -> list[int]:
    """What changes when a file does: size, time, and, since archives restore both, its number and when its state last changed."""
    return [state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns]


def states_of(file: Path) -> list[int]:
    """`state_of` a file, and behind it that of the file in which its header (.mhd, .nrrd) says the voxels are: they may change alone."""
    states = state_of(os.stat(file))
    if file.suffix.lower() in HEADERS:
        with suppress(OSError, ValueError), open(file, "rb") as stream:
            found = VOXELS.search(stream.read(2**16))
            if found and found[1].upper() != b"LOCAL":
                states += state_of(os.stat(file.parent / os.fsdecode(found[1])))
    return states


def place_of(folder: Path, name: str) -> Path:
    """Where a folder has what is called so, case apart (TRAIN.TXT for train.txt); `folder / name` where it has no such thing."""
    exact = folder / name
    if exact.exists() or not folder.is_dir():
        return exact
    return next((path for path in entries(folder) if path.name.lower() == name.lower()), exact)


def matching(folder: Path, pattern: str) -> list[Path]:
    """What fits a pattern below a folder, sorted, case apart; each part of the pattern is one folder down."""
    found = [folder]
    for part in pattern.lower().split("/"):
        found = [path for place in found for path in entries(place) if fnmatch.fnmatchcase(path.name.lower(), part)]
    return sorted(found)


def real_place(path: Path) -> Path:
    """Where a path leads, links followed; of links that lead in a circle, at which `Path.resolve` raises, a link of the circle."""
    return Path(os.path.realpath(path))


def is_regular(path: Path) -> bool:
    """Whether it is a file or a link to one: reading a pipe or a device may never end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def natural(name: str) -> list[tuple[int, str]]:
    """Sorting key under which slice_2 stands before slice_10."""
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in re.split(r"([0-9]+)", name) if part]


MOST_BYTES = 255
"""Of a name, on nearly every file system."""


def shortened(name: str, more: int) -> str:
    """A name to which `more` bytes can be added: cut, with a digest of the whole behind it, where it is too long; else as it is."""
    content = os.fsencode(name)
    if len(content) + more <= MOST_BYTES:
        return name
    digest = "~" + hashlib.sha256(content).hexdigest()[:8]
    cut = content[: MOST_BYTES - more - len(digest)]
    return cut.decode(sys.getfilesystemencoding(), "ignore") + digest


def with_ending(*endings: str) -> Callable[[str], str | None]:
    """A name without its ending, for names that have one of these, in any case; the longest is taken off."""
    longest = sorted(endings, key=len, reverse=True)

    def stem(name: str) -> str | None:
        return next((name[: -len(ending)] for ending in longest if name.lower().endswith(ending.lower()) and len(name) > len(ending)), None)

    return stem
