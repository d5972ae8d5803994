"""What the choice is handed out as: a list, a sheet of small pictures, and a folder of links for a tool that draws masks."""
from __future__ import annotations

import csv
import io
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from advice.looks import Look
from dataloaders.errors import UserError, shown
from dataloaders.listing import entries
from pictures.flat import grey
from pictures.sheets import plt
from storage.checkpoint import write_atomically

LIST, TABLE, SHEET, LINKS = "next.txt", "next.csv", "next.png", "links"
COLUMNS, MOST = 5, 60
"""Of the sheet: pictures in a row, and altogether."""


def hand_out(folder: Path, looks: Sequence[Look], distances: Sequence[float]) -> None:
    """Writes all of it into a folder, in place of what such a command wrote there before. Raises `UserError` where more is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another place by --output.") from None
    links = folder / LINKS
    if links.exists():
        mine = written_before(folder / TABLE)
        if strange := [file.name for file in entries(links) if file.name not in mine]:
            raise UserError(f"{links}: holds more than the links that this command wrote ({shown(strange[0])}). Choose another place by "
                            "--output.")
        shutil.rmtree(links)
    links.mkdir()
    for number, look in enumerate(looks, 1):
        _link(links / linked(number, look.candidate.name, look.candidate.file), look.candidate.file)
    write_atomically(folder / LIST, "".join(f"{look.candidate.name}\n" for look in looks).encode(errors="backslashreplace"))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["order", "name", "file", "expected_dice", "distance_to_known"])
    for number, (look, distance) in enumerate(zip(looks, distances), 1):
        writer.writerow([number, look.candidate.name, look.candidate.file, "" if look.expected is None else f"{look.expected:.4f}",
                         "" if not np.isfinite(distance) else f"{distance:.3f}"])
    write_atomically(folder / TABLE, table.getvalue().encode(errors="backslashreplace"))
    sheet(folder / SHEET, looks)


def written_before(table: Path) -> set[str]:
    """What the links are called that such a command made beside its table. Tools put what is drawn beside the images, under nearly the same
    names, and that must not be lost."""
    if not table.is_file():
        return set()
    with open(table, encoding="utf-8", errors="replace", newline="") as lines:
        rows = [row for row in csv.reader(lines) if len(row) > 2 and row[0].isdecimal()]
    return {linked(int(number), name, Path(file)) for number, name, file, *_ in rows}


def linked(number: int, name: str, file: Path) -> str:
    """What a link is called: `prepare.py labels` knows the image again by it, when the tool has written it into its export."""
    bare = name.rpartition("/")[2]
    ending = file.name[len(bare) :] if file.name.startswith(bare) else file.suffix
    return f"{number:03d}_{name.replace('/', '_')}{ending}"


def _link(place: Path, file: Path) -> None:
    """A link to a file; a copy where the system makes none."""
    try:
        place.symlink_to(file.resolve())
    except (OSError, RuntimeError):  # RuntimeError: a system without links
        shutil.copyfile(file, place)


def sheet(path: Path, looks: Sequence[Look]) -> None:
    """A PNG of the images in order, each with its number, name and what the run expects of it."""
    some = looks[:MOST]
    columns = min(COLUMNS, len(some))
    rows = -(-len(some) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.5 * columns, 2.9 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (axis, look) in enumerate(zip(axes.flat, some), 1):
        pixels = look.candidate.read()
        middle = int(np.argmin(pixels.shape[1:]))
        plane = np.take(pixels, pixels.shape[1 + middle] // 2, 1 + middle)
        picture = Image.fromarray(grey(plane))
        picture.thumbnail((320, 320))
        axis.imshow(np.asarray(picture), interpolation="nearest")
        name = shown(look.candidate.name)
        told = "" if look.expected is None else f"\nexpected Dice {look.expected:.2f}"
        axis.set_title(f"{number}. {name if len(name) < 26 else '...' + name[-22:]}{told}", fontsize=8, parse_math=False)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in letters that the font has not
        figure.tight_layout()
        figure.savefig(stream, dpi=90, bbox_inches="tight")  # titles of the first row reach beyond it
    plt.close(figure)
    write_atomically(path, stream.getvalue())


def said(folder: Path) -> str:
    """Where it lies, from here."""
    near = os.path.relpath(folder)
    return near if not near.startswith("../..") else str(folder)
