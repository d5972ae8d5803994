"""SHA256SUMS: what the files of a data set should be, where somebody wrote it down.

    cd data/ACDC && find . -type f ! -name SHA256SUMS | sort | xargs -d '\n' sha256sum > SHA256SUMS

Most formats of images have no checksum of their own (HDF5 as it is passed around, .nii, lists of names), so that a flipped bit is another
value and nothing more. Where this file lies in a data set's folder, each file that it names is compared when it is read.
"""
from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from dataloaders.errors import UserError

NAME = "SHA256SUMS"
ABOVE = 4
"""In how many folders above a file it is looked for; the nearest one counts."""


@lru_cache(maxsize=16)
def _read(sums: Path, size: int, time: int) -> dict[str, str]:
    """Digests by path below the folder; `size` and `time` tell one state of the file from the next."""
    found = {}
    for line in sums.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        digest, _, name = line.partition(" ")
        if len(digest) != 64 or not name.strip():
            raise UserError(f"{sums}: {line[:80]!r} is no digest and name, as sha256sum writes them. Write it anew, or remove it.")
        found[name.removeprefix(" ").removeprefix("*").removeprefix("./")] = digest.lower()
    return found


@lru_cache(maxsize=2**16)
def _digest(file: Path, size: int, time: int, number: int, changed: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check(file: Path) -> None:
    """Raises `UserError` where the file is not the one that the nearest SHA256SUMS names. OSError is left to who opens the file."""
    place = file.absolute()
    for folder in place.parents[: ABOVE + 1]:
        sums = folder / NAME
        try:
            state = sums.stat()
        except OSError:
            continue
        wanted = _read(sums, state.st_size, state.st_mtime_ns).get(place.relative_to(folder).as_posix())
        if wanted is not None:
            now = file.stat()
            if _digest(place, now.st_size, now.st_mtime_ns, now.st_ino, now.st_ctime_ns) != wanted:
                raise UserError(f"{file}: not the file of which {sums} has the SHA-256; it was damaged, or changed since. Download it "
                                "again, or, if it is meant so, write SHA256SUMS anew.")
        return
